"""How often a server dies when its listener's identity changes while handshakes begin.

    python -m benchmarks.listener_rotation [--seconds 30] [--settle 0 0.002 0.2] [--output FILE]

One process serves grpc.aio with an identity that changes each time it is looked at, which is at
every connection; others open connections as fast as they can; a client on an open connection
measures its calls. `--settle` is the pause before a change (docs/adr/0023); 0 is how it was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import mmap
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.fakes.certificates import TestAuthority
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import Role
from trove_grpc.tls import (
    SETTLE_SECONDS,
    IdentityDirectory,
    KeyMaterial,
    channel_credentials,
    expected_server,
    server_credentials,
)

_MODULE = "benchmarks.listener_rotation"
_STORMS = 2
# Connections that one storm holds at a time.
_BURST = 40
_CALL_SECONDS = 10.0
_POLL_SECONDS = 0.02
_COUNTER_BYTES = 8


@dataclass(slots=True)
class Outcome:
    """What became of a number of changes."""

    settle: float
    changes: int = 0
    # Servers that ended by a signal, by the signal's number.
    deaths: list[int] = field(default_factory=list)
    # The longest call on a connection that was open before, seconds.
    longest_call: float = 0.0

    def summary(self) -> dict[str, object]:
        return {
            "settle_seconds": self.settle,
            "changes": self.changes,
            "deaths": len(self.deaths),
            "by_signal": {str(each): self.deaths.count(each) for each in sorted(set(self.deaths))},
            "longest_call_seconds": round(self.longest_call, 3),
        }


def measure(settle: float, *, seconds: float) -> Outcome:
    """Change an identity under a storm of connections for so long; restart what dies of it."""
    outcome = Outcome(settle)
    ends = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="listener-") as name:
        path = Path(name)
        authority = TestAuthority()
        for each in ("one", "two"):
            authority.identity_for_service(Role.CONDUCTOR, path / each)
        while time.monotonic() < ends:
            counter = path / "changes"
            counter.write_bytes(bytes(_COUNTER_BYTES))
            with _server(path, settle) as (server, port):
                with contextlib.suppress(grpc.RpcError), _calls(path, port) as call, _storms(port):
                    while server.poll() is None and time.monotonic() < ends:
                        began = time.monotonic()
                        call()
                        outcome.longest_call = max(outcome.longest_call, time.monotonic() - began)
                        time.sleep(_POLL_SECONDS)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    # A call may notice the end before the parent does.
                    outcome.deaths.append(-server.wait(timeout=0.5))
            outcome.changes += int.from_bytes(counter.read_bytes(), "big")
    return outcome


@contextlib.contextmanager
def _server(path: Path, settle: float) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    process = subprocess.Popen(
        [sys.executable, "-m", _MODULE, "--serve", str(path), str(settle)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        with process.stdout or contextlib.nullcontext() as said:
            yield process, int(said.readline())
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _storms(port: int) -> Iterator[None]:
    command = [sys.executable, "-m", _MODULE, "--storm", str(port)]
    storms = [subprocess.Popen(command) for _ in range(_STORMS)]
    try:
        yield
    finally:
        for storm in storms:
            storm.kill()
            storm.wait()


@contextlib.contextmanager
def _calls(path: Path, port: int) -> Iterator[Any]:
    identity = IdentityDirectory(path / "one")
    bundle = identity.bundle()
    with grpc.secure_channel(
        f"127.0.0.1:{port}",
        channel_credentials(bundle, identity.load()),
        options=[expected_server(bundle, Role.CONDUCTOR)],
    ) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check

        def call() -> None:
            check(health_pb2.HealthCheckRequest(), timeout=_CALL_SECONDS)

        call()
        yield call


class _Restless(IdentityDirectory):
    """An identity that is another one each time it is loaded."""

    def __init__(self, path: Path) -> None:
        super().__init__(path / "one")
        self._materials = [self._read(path / "one"), self._read(path / "two")]
        with (path / "changes").open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _COUNTER_BYTES)
        self._changes = 0

    @staticmethod
    def _read(root: Path) -> KeyMaterial:
        return IdentityDirectory(root).load()

    def load(self, slot: str = "current") -> KeyMaterial:
        self._changes += 1
        # What a killed process has written here stays.
        self._shared[:] = self._changes.to_bytes(_COUNTER_BYTES, "big")
        return self._materials[self._changes % len(self._materials)]


async def _serve(path: Path, settle: float) -> None:
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    credentials = server_credentials(
        _Restless(path), {trust_pb2.AUTHORITY_KIND_SERVICE}, settle=settle
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


def _storm(port: int) -> None:
    """Open connections as fast as it goes; what follows a handshake's beginning is not needed."""
    parent = os.getppid()
    held: list[socket.socket] = []
    while os.getppid() == parent:
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", port))
        held.append(connection)
        if len(held) == _BURST:
            for each in held:
                each.close()
            held.clear()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--settle", type=float, nargs="+", default=[0.0, 0.002, SETTLE_SECONDS])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--storm", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(_serve(Path(options.serve[0]), float(options.serve[1])))
        return 0
    if options.storm:
        _storm(options.storm)
        return 0
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": options.seconds,
        "runs": [measure(settle, seconds=options.seconds).summary() for settle in options.settle],
    }
    text = json.dumps(report, indent=2)
    if options.output:
        options.output.write_text(text + "\n")
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
