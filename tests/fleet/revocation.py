"""How fast a denial ends a stream: `python -m tests.fleet.revocation --output FILE`.

Two gateways as processes, a stream for each agent, one denial after the other: by instance, by
serial, by key. Measured from the call of CreateDenial to the moment the agent has lost its
session; then its certificate is shown to both gateways again, which must refuse it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc import aio

from tests.fakes.guest_stream import GuestStream
from tests.fleet import region as regions
from tests.integration.gateways.conftest import Guest, Region, eventually
from trove_grpc import errors
from trove_grpc.client import call, open_local_channel
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.identity import identify

KINDS = (pb.DENIAL_KIND_INSTANCE, pb.DENIAL_KIND_SERIAL, pb.DENIAL_KIND_KEY)
_LOOK_SECONDS = 0.001
_ATTEMPTS = 10


@dataclass(slots=True)
class Figures:
    """What was measured, seconds."""

    from_call: list[float] = field(default_factory=list)
    from_answer: list[float] = field(default_factory=list)
    refused: int = 0

    def markdown(self, streams: int) -> str:
        lines = [
            f"# {len(self.from_call)} revocations, 2 gateways, {streams} streams",
            "",
            (
                f"{os.cpu_count()} cores for issuer, conductor, gateways and agents together; by "
                "instance, serial and key in turn."
            ),
            "",
            "| seconds to the stream's end | p50 | p99 | max |",
            "|---|---|---|---|",
            regions.row("from the call of CreateDenial", self.from_call),
            regions.row("from its answer", self.from_answer),
            "",
            (
                f"{self.refused} of {2 * len(self.from_call)} attempts to connect again, each "
                "certificate at each gateway, were refused as denied."
            ),
        ]
        return "\n".join(lines) + "\n"


async def measure(agents: int, revocations: int) -> Figures:
    figures = Figures()
    async with regions.region() as region:
        await region.start()
        for name in ("one", "two"):
            await region.start_gateway(name, denial_poll=1)
        fleet = await regions.guests(region, agents)
        for guest in fleet:
            guest.start()
        await eventually(lambda: all(each.is_connected for each in fleet), "all here", within=120)
        async with open_local_channel(region.issuer_config.operator_socket) as channel:
            issuer = rpc.IssuerServiceStub(channel)
            turns = zip(fleet[:revocations], itertools.cycle(KINDS), strict=False)
            for guest, kind in turns:
                await _revoke(issuer, guest, kind, figures)
        for guest in fleet[:revocations]:
            await guest.stop()
            figures.refused += await _refusals(region, guest)
    return figures


async def _revoke(
    issuer: rpc.IssuerServiceStub, guest: Guest, kind: pb.DenialKind.ValueType, figures: Figures
) -> None:
    shown = identify(guest.identity.load().chain_pem, guest.identity.bundle())
    value = {
        pb.DENIAL_KIND_INSTANCE: guest.instance_id,
        pb.DENIAL_KIND_SERIAL: shown.serial,
        pb.DENIAL_KIND_KEY: shown.key_hash,
    }[kind]
    ended = asyncio.create_task(_loss(guest))
    began = time.monotonic()
    request = pb.CreateDenialRequest(kind=kind, value=value, reason="measured")
    await call(issuer.CreateDenial, request, timeout=10)
    answered = time.monotonic()
    at = await ended
    figures.from_call.append(at - began)
    figures.from_answer.append(max(0.0, at - answered))


async def _loss(guest: Guest) -> float:
    """When the agent has lost its session; looked at each millisecond."""
    async with asyncio.timeout(30):
        while guest.is_connected:  # noqa: ASYNC110  an agent sets no event
            await asyncio.sleep(_LOOK_SECONDS)
    return time.monotonic()


async def _refusals(region: Region, guest: Guest) -> int:
    """How many of the gateways refuse the certificate as denied."""
    reasons = [await _reason(gateway.guest, guest) for gateway in region.gateways.values()]
    return reasons.count("CERTIFICATE_DENIED")


async def _reason(address: str, guest: Guest) -> str:
    """Why the certificate is refused there; empty when it is let in."""
    for _ in range(_ATTEMPTS):
        stream = GuestStream(address, guest.identity)
        try:
            await stream.open()
        except aio.AioRpcError as error:
            # A write that meets the end of its call hides the status: ask again.
            if error.code() is not grpc.StatusCode.INTERNAL:
                return errors.from_rpc(error).reason
        except asyncio.InvalidStateError:
            continue
        else:
            return ""
        finally:
            await stream.close()
    raise AssertionError(f"{address} gave no reason in {_ATTEMPTS} attempts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--revocations", type=int, default=200)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    figures = asyncio.run(measure(arguments.agents, arguments.revocations))
    report = figures.markdown(arguments.agents)
    print(report)  # noqa: T201
    if arguments.output is not None:
        arguments.output.parent.mkdir(exist_ok=True)
        arguments.output.write_text(report)
    assert figures.refused == 2 * len(figures.from_call), "somebody came back"


if __name__ == "__main__":
    main()
