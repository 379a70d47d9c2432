"""A fleet whose leaves all expired comes back at once: `python -m tests.fleet.mass_return`.

Every agent is enrolled with a short leaf and kept off until it has expired; then all start in one
moment, prove their old keys and recover. Nobody helps. What the issuer had waiting is counted at
its database, which is where its calls queue.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pki.store import Store
from tests.fleet import region as regions
from tests.integration.gateways.conftest import Guest, eventually, seconds
from trove_grpc.client import open_enrolment_channel
from trove_grpc.errors import OverloadedError
from trove_grpc.gen.guest.v1 import enrolment_service_pb2_grpc as enrolment_rpc
from trove_grpc.redaction import Secret

_AT_ONCE = 32


@dataclass(slots=True)
class Load:
    """What the issuer's database had to do."""

    peak: int = 0  # calls waiting or running
    limit: int = 0
    turned_away: int = 0


@dataclass(slots=True)
class Figures:
    """What was measured."""

    agents: int
    returned: list[float] = field(default_factory=list)  # seconds from the start of all
    load: Load = field(default_factory=Load)
    recoveries: int = 0

    def markdown(self) -> str:
        lines = [
            f"# {self.agents} agents whose leaves all expired return at once",
            "",
            (
                f"{os.cpu_count()} cores for issuer, conductor, two gateways and agents together. "
                f"{len(self.returned)} of {self.agents} have a session again, "
                f"{self.recoveries} recovered with their old key, none with an operator's help."
            ),
            "",
            "| seconds | p50 | p99 | max |",
            "|---|---|---|---|",
            regions.row("start of all to each one's session", self.returned),
            "",
            (
                f"At most {self.load.peak} calls waited for the issuer's database at once, of "
                f"{self.load.limit} it lets wait; it turned {self.load.turned_away} away, which "
                "came again."
            ),
        ]
        return "\n".join(lines) + "\n"


@contextmanager
def watched_load() -> Iterator[Load]:
    """Count what waits in every issuer's store of this process."""
    load, run = Load(), Store.run

    async def counted(store: Store, function: Any) -> Any:
        load.limit = store._max_waiting
        load.peak = max(load.peak, min(store._waiting + 1, load.limit))
        try:
            return await run(store, function)
        except OverloadedError:
            load.turned_away += 1
            raise

    Store.run = counted  # type: ignore[method-assign, assignment]
    try:
        yield load
    finally:
        Store.run = run  # type: ignore[method-assign]


async def measure(agents: int, life: float) -> Figures:
    figures = Figures(agents)
    async with regions.region() as region:
        await region.start()
        for name in ("one", "two"):
            await region.start_gateway(name)
        fleet = await regions.guests(region, agents)
        await region.start_issuer(guest_lifetime=seconds(life))
        await _enrol(fleet)
        await region.start_issuer(guest_lifetime=seconds(3600))
        await eventually(
            lambda: max(each.expires_in for each in fleet) < -1, "all expired", within=life + 60
        )
        with watched_load() as load:
            began = time.monotonic()
            for guest in fleet:
                guest.start()
            missing = set(range(agents))

            def come() -> bool:
                back = {number for number in missing if fleet[number].is_connected}
                missing.difference_update(back)
                figures.returned += [time.monotonic() - began] * len(back)
                return not missing

            await eventually(come, "everybody came back", within=60 + agents * 0.2)
        figures.load = load
        figures.recoveries = len(region.audit("recover-guest"))
    return figures


async def _enrol(fleet: list[Guest]) -> None:
    """An identity for each, and nothing else: nobody connects."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(guest: Guest) -> None:
        async with slots:
            identity = guest.new_agent().identity
            token = Secret(guest.config.token_file.read_text())
            async with open_enrolment_channel(
                guest.config.enrolment_endpoints, guest.identity
            ) as channel:
                stub: Any = enrolment_rpc.EnrolmentServiceStub(channel)
                await identity.enrol(token, stub)
            identity.forget_token()

    async with asyncio.TaskGroup() as group:
        for guest in fleet:
            group.create_task(one(guest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--life", type=float, default=20.0, help="of the first leaves, seconds")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    # A connection is a file here and one in a gateway, which inherits the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures = asyncio.run(measure(arguments.agents, arguments.life))
    report = figures.markdown()
    print(report)  # noqa: T201
    if arguments.output is not None:
        arguments.output.parent.mkdir(exist_ok=True)
        arguments.output.write_text(report)
    assert len(figures.returned) == figures.recoveries == figures.agents


if __name__ == "__main__":
    main()
