"""A fleet whose leaves all expired comes back at once: `python -m tests.fleet.mass_return`.

Every agent is enrolled with a short leaf and kept off until it has expired; then all start in one
moment, prove their old keys and recover, nobody helps. The control plane is a real installation,
process by process; what waits at the issuer's database, where its calls queue, is read from its
metrics.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import logging
import os
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.installation import Installation, installation
from tests.fakes.engine import FakeEngine
from tests.fleet.fleet import ControlPlane, FleetAgent, agent_config, until
from trove_grpc.client import open_enrolment_channel
from trove_grpc.gen.guest.v1 import enrolment_service_pb2_grpc as enrolment_rpc
from trove_grpc.redaction import Secret

_AT_ONCE = 32
_LOOK_SECONDS = 0.1


@dataclass(slots=True)
class Figures:
    """What was measured."""

    agents: int
    returned: list[float] = field(default_factory=list)  # seconds from the start of all
    recoveries: int = 0
    peak: int = 0  # calls waiting or running at the issuer's database
    limit: int = 0

    def markdown(self) -> str:
        lines = [
            f"# {self.agents} agents whose leaves all expired return at once",
            "",
            (
                f"{os.cpu_count()} cores for control plane and agents together, load "
                f"{os.getloadavg()[0]:.1f} at the end. {len(self.returned)} of {self.agents} have "
                f"a session again, {self.recoveries} recovered with their old key, none with an "
                "operator's help."
            ),
            "",
            "| seconds | p50 | p99 | max |",
            "|---|---|---|---|",
            _row("start of all to each one's session", self.returned),
            "",
            (
                f"At most {self.peak} calls were seen waiting for the issuer's database at once, "
                f"of {self.limit} it lets wait."
            ),
        ]
        return "\n".join(lines) + "\n"


def _row(what: str, seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"| {what} | {statistics.median(ordered):.2f} | {p99:.2f} | {ordered[-1]:.2f} |"


async def measure(plane: Installation, agents: int) -> Figures:
    """The installation's guest leaves must be short; longer than enrolling so many takes."""
    figures = Figures(agents)
    control = ControlPlane(plane)
    registered = await control.register(agents)
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        fleet = [
            FleetAgent(agent_config(control, Path(folder), name, tenant, token), FakeEngine())
            for name, (tenant, token) in registered.items()
        ]
        await _enrol(fleet)
        expired = {_serial(agent) for agent in fleet}
        last = max(agent.identity.expires_in() for agent in fleet)
        await until(
            lambda: not any(agent.identity.is_usable for agent in fleet),
            "every leaf expired",
            within=last + 10,
        )
        await _return(control, fleet, figures)
        # Their tokens are used up: with another certificate than the expired one they recovered.
        figures.recoveries = sum(_serial(agent) not in expired for agent in fleet)
    return figures


def _serial(agent: FleetAgent) -> str:
    return agent.identity.directory.load().facts.serial


async def _return(control: ControlPlane, fleet: list[FleetAgent], figures: Figures) -> None:
    stop, seen = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_watch_issuer(control, figures, seen))
        loop = asyncio.get_running_loop()
        began = loop.time()
        for agent in fleet:
            group.create_task(agent.run(stop))
        try:
            await until(
                lambda: all(agent.opened_at > began for agent in fleet),
                "everybody came back",
                within=60 + len(fleet) * 0.2,
            )
            figures.returned = [agent.opened_at - began for agent in fleet]
        finally:
            seen.set()
            stop.set()


async def _watch_issuer(control: ControlPlane, figures: Figures, seen: asyncio.Event) -> None:
    while not seen.is_set():
        text = await asyncio.to_thread(_scrape, control.endpoints["issuer-metrics"])
        figures.peak = max(figures.peak, _value(text, "trove_issuer_database_waiting"))
        figures.limit = _value(text, "trove_issuer_database_waiting_limit")
        await asyncio.sleep(_LOOK_SECONDS)


def _scrape(endpoint: str) -> str:
    connection = http.client.HTTPConnection(endpoint, timeout=30)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def _value(text: str, name: str) -> int:
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, f"no {name}"
    return int(float(found[1]))


async def _enrol(fleet: list[FleetAgent]) -> None:
    """An identity for each, and nothing else: nobody connects."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(agent: FleetAgent) -> None:
        async with slots:
            token = agent.identity.read_token()
            assert isinstance(token, Secret)
            endpoints = agent._config.enrolment_endpoints
            async with open_enrolment_channel(endpoints, agent.identity.directory) as channel:
                stub: Any = enrolment_rpc.EnrolmentServiceStub(channel)
                await agent.identity.enrol(token, stub)
            agent.identity.forget_token()

    async with asyncio.TaskGroup() as group:
        for agent in fleet:
            group.create_task(one(agent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--life", type=int, default=90, help="of every leaf, seconds")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    # A connection is a file here and one in the gateway, which inherits the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    settings = {
        "issuer__guest_lifetime": str(arguments.life),
        "taskmanager__sweep_interval": "86400",
    }
    began = time.monotonic()
    with installation(**settings) as plane:
        figures = asyncio.run(measure(plane, arguments.agents))
    report = figures.markdown() + f"\nThe whole measurement: {time.monotonic() - began:.0f} s.\n"
    print(report)  # noqa: T201
    if arguments.output is not None:
        arguments.output.parent.mkdir(exist_ok=True)
        arguments.output.write_text(report)
    assert len(figures.returned) == figures.recoveries == figures.agents


if __name__ == "__main__":
    main()
