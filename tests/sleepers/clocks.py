"""Clocks a day wrong, forwards and backwards, and right again: `make test-sleepers`.

Debian's libfaketime (package libfaketime) moves the time of day of one process, and leaves the
time since boot alone, as a person with `date` does. Certificates are judged by BoringSSL inside
grpcio: the first test shows that it believes the moved clock.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from pathlib import Path

import pytest

from tests.integration.gateways.conftest import (
    ROOT,
    Guest,
    Region,
    eventually,
    region,
    seconds,
)
from trovectl import toml

__all__ = ["region"]  # a fixture

DAY = 86_400
LIBRARY = Path(f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketimeMT.so.1")
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="libfaketime is not installed")


class Clock:
    """The time of day of one process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(0)

    def set(self, offset: int) -> None:
        """So many seconds ahead of ours; a reader sees the old or the new one."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(f"{offset:+d}\n")
        fresh.rename(self._path)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


class AgentProcess:
    """`python -m guestagent` with a clock of its own and no engine yet."""

    def __init__(self, region: Region, guest: Guest) -> None:
        self.guest = guest
        self.clock = Clock(region.root / "agent.clock")
        self._region = region
        self._log = region.root / "agent.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        config = self.guest.config
        path = self._region.root / "agent.toml"
        names = ("identity", "instance_id", "tenant_id", "token_file", "enrolment_endpoints")
        names += ("guest_endpoints", "state_directory", "data_directory", "run_directory")
        settings = {name: getattr(config, name) for name in names}
        quick = {"manager": "postgresql", "reconnect_backoff": 0.2, "reconnect_backoff_limit": 1.0}
        path.write_text(toml.dumps({**settings, **quick}))
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "guestagent", "--config", str(path)),
                cwd=self._region.root,
                stderr=log,
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(ROOT),
                    **self.clock.environment,
                },
            )
        self._region.stack.push_async_callback(self.stop)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def credentials(self) -> dict[str, bytes]:
        """Every key and certificate, by name."""
        root = self.guest.identity.root
        return {
            str(path.relative_to(root)): path.read_bytes() for path in root.glob("generations/*/*")
        }


def sessions(region: Region, guest: Guest) -> int:
    """Epoch of the guest's session while it has one, else 0."""
    rows = region.query(
        "SELECT session_epoch FROM guest_sessions WHERE instance_id = ? AND close_time IS NULL"
        " AND open_time IS NOT NULL",
        guest.instance_id,
    )
    return int(rows[0][0]) if rows else 0


async def connected(region: Region, guest: Guest, *, after: int = 0) -> int:
    return await eventually(
        lambda: (epoch := sessions(region, guest)) > after and epoch, f"a session after {after}"
    )


@pytest.fixture
async def agent(region: Region) -> AgentProcess:
    """An agent that is connected, its clock right."""
    await region.start()
    await region.start_gateway("one")
    agent = AgentProcess(region, await region.guest())
    await agent.start()
    await connected(region, agent.guest)
    return agent


async def restart_gateway(region: Region) -> None:
    await region.gateways["one"].kill()
    await region.start_gateway("one")


async def test_grpc_believes_the_moved_clock(region: Region, agent: AgentProcess) -> None:
    agent.clock.set(-DAY)
    await restart_gateway(region)
    await eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in agent.log, "TLS refuses the gateway")


async def test_agent_a_day_behind_says_so_keeps_its_key_and_comes_back(
    region: Region, agent: AgentProcess
) -> None:
    before, epoch = agent.credentials(), sessions(region, agent.guest)
    agent.clock.set(-DAY)
    await restart_gateway(region)
    # It was told the time before, so it knows how far off it is.
    message = "clock_skew: this guest's clock is 24 h 0 min behind the control plane's"
    await eventually(lambda: message in agent.log, "named", within=10)
    # One that never was sees it by the gateway's certificate.
    await agent.stop()
    await agent.start()
    await eventually(lambda: "clock_skew: this guest's clock says" in agent.log, "named again")
    assert agent.credentials() == before
    agent.clock.set(0)
    await connected(region, agent.guest, after=epoch)
    assert agent.credentials() == before


@pytest.mark.parametrize("offset", [DAY, 4 * DAY])
async def test_agent_ahead_even_beyond_its_certificate_works_on(
    region: Region, agent: AgentProcess, offset: int
) -> None:
    before, epoch = agent.credentials(), sessions(region, agent.guest)
    agent.clock.set(offset)
    await restart_gateway(region)
    epoch = await connected(region, agent.guest, after=epoch)
    # And one that has only its wrong clock to go by.
    await agent.stop()
    await agent.start()
    epoch = await connected(region, agent.guest, after=epoch)
    if offset > 3 * DAY:
        assert "the certificate has not expired: clock_skew" in agent.log
    agent.clock.set(0)
    await restart_gateway(region)
    await connected(region, agent.guest, after=epoch)
    assert agent.credentials() == before
    assert region.audit("recover-guest") == []
    assert region.audit("refuse-recovery") == []


@pytest.mark.parametrize("offset", [DAY, -DAY])
async def test_gateway_with_a_wrong_clock_costs_no_credential(region: Region, offset: int) -> None:
    await region.start(guest_lifetime=seconds(3600))
    clock = Clock(region.root / "gateway.clock")
    await region.start_gateway("one", environment=clock.environment)
    agent = AgentProcess(region, await region.guest())
    await agent.start()
    epoch = await connected(region, agent.guest)
    before = agent.credentials()
    clock.set(offset)
    await agent.stop()
    await agent.start()  # a new connection, judged by the gateway's clock
    await eventually(lambda: agent.log.count("no session") > 3, "refused again and again")
    assert agent.credentials() == before
    clock.set(0)
    await connected(region, agent.guest, after=epoch)
    assert agent.credentials() == before
    assert region.audit("recover-guest") == []
