"""An identity is stored on a disk that is full, and by a process that is killed, at every step."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.guest_gateway import FakeGateway, eventually, serial_of
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb

ROOT = Path(__file__).parents[3]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """Something of 256 KiB, mounted on `path`; yields the name of a file to fill it with."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], check=True)
    try:
        yield path / "ballast"
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def run(what: str) -> int:
    """How many lives `what` took."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        done = subprocess.run(
            [sys.executable, "-m", "tests.fakes.failing_disk", what, directory],
            cwd=ROOT,
            # It forks; gRPC's own preparations for that are not needed where no channel is open.
            env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    return int(done.stdout)


def test_guest_killed_before_and_after_every_file_operation_and_again_comes_up_whole():
    assert run("kills") > 100


def test_guest_without_space_at_every_file_operation_keeps_what_it_has_and_goes_on_later():
    assert run("errors") > 100


@needs_root
def test_guest_on_a_small_disk_with_so_many_pages_left_keeps_what_it_has_and_goes_on_later():
    assert run("full") > 10


@needs_root
async def test_agent_on_a_full_disk_serves_its_session_says_so_and_renews_when_there_is_space(
    machine, gateway: FakeGateway
):
    identity = machine.root / "agent/identity"
    bundle = (identity / "bundle.pb").read_bytes()
    with small_disk(identity) as ballast:
        (identity / "bundle.pb").write_bytes(bundle)
        machine.give_token()
        gateway.guest_lifetime = dt.timedelta(seconds=60)
        async with machine.agent() as agent:
            first = await gateway.connected()
            with pytest.raises(OSError, match="No space"):
                ballast.write_bytes(bytes(1024 * 1024))
            gateway.guest_lifetime = dt.timedelta(hours=1)
            window = pb.Settings()
            window.renewal_window.start_time.GetCurrentTime()
            window.renewal_window.end_time.GetCurrentTime()
            first.send(settings=window)
            await eventually(lambda: "No space left" in agent.identity.problem, within=30)
            result = await gateway.command("ping-1", ping=pb.PingAction())
            assert result.error_reason == ""
            assert gateway.open == [first]
            assert gateway.renewals == []  # nobody is asked for what could not be kept
            ballast.unlink()
            await eventually(lambda: gateway.confirmed, within=40)
            second = await gateway.connected(more_than=1)
            await eventually(lambda: serial_of(identity / "current") == second.serial)
            assert agent.identity.directory.problem == ""
