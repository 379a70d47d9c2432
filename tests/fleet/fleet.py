"""A fleet against a real control plane: agents by the thousand in this process, each with its own
key, its own token and its own TLS connection, beside a few that are whole processes with engines.

What is watched is what an operator would see: the moment an agent's session opens, and the age of
its last report in the conductor's database of record.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import signal
import socket
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guestagent.agent import Agent
from guestagent.config import Config
from guestagent.reconnect import Reconnect, stretched
from tests.acceptance.installation import Installation
from tests.fakes.engine import FakeEngine
from tests.fleet.windows import Return, misses
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.conductor.v1 import (
    instance_service_pb2 as instance_pb2,
)
from trove_grpc.gen.conductor.v1 import (
    instance_service_pb2_grpc,
    operation_service_pb2,
    operation_service_pb2_grpc,
    resources_pb2,
)
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory

# The default quota of a tenant.
INSTANCES_PER_TENANT = 10
_AT_ONCE = 16
_PAGE = 100
_POLL_SECONDS = 0.05
_TICK_SECONDS = 0.01
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, median and largest of many, seconds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        listed = list(values)
        return cls(min(listed), statistics.median(listed), max(listed))

    def __str__(self) -> str:
        return f"{self.low:.2f} / {self.median:.2f} / {self.high:.2f}"


@dataclass(slots=True)
class Report:
    """What was seen. Times in seconds."""

    agents: int
    heartbeat_interval: float
    reconnect_window: float = 0.0
    first_sessions: Spread | None = None
    down: float = 0.0
    # Agents that dialled while the gateway was away, and so kept their place.
    found_nobody: int = 0
    # From the moment the gateway's guest port took connections again.
    asked_again: Spread | None = None
    sessions_again: Spread | None = None
    missed: int = 0
    # The longest that an agent here may have been kept from asking by the others: one event loop.
    lateness: float = 0.0
    # From Hello to Welcome.
    admission: Spread | None = None
    # CPU of a process in the return of the fleet, milliseconds for each agent.
    cpu: dict[str, float] = field(default_factory=dict)
    load_average: float = 0.0
    report_ages: list[Spread] = field(default_factory=list)
    full_agents: int = 0

    def markdown(self) -> str:
        lines = [
            f"# Fleet of {self.agents} agents, {self.full_agents} whole ones with engines beside",
            "",
            (
                f"{os.cpu_count()} cores for control plane, fleet and engines together; "
                f"heartbeats every {self.heartbeat_interval:g} s; the gateway asked for a "
                f"reconnect window of {self.reconnect_window:.1f} s and was away for "
                f"{self.down:.1f} s. Load average at the end: {self.load_average:.1f}."
            ),
            "",
            f"{self.found_nobody} of {self.agents} agents dialled while it was away.",
            "",
            (
                f"{self.missed} of {self.agents} agents were not back in their windows "
                "(docs/reference/fleet.md); the test's own event loop was late by "
                f"{self.lateness:.2f} s at most."
            ),
            "",
            "CPU for each agent that came back, milliseconds: "
            + ", ".join(f"{name} {spent:.1f}" for name, spent in self.cpu.items())
            + ".",
            "",
            "| seconds | min / median / max |",
            "|---|---|",
            f"| start of all agents at once to each one's session | {self.first_sessions} |",
            f"| gateway serving again to each one's asking | {self.asked_again} |",
            f"| gateway serving again to each one's session | {self.sessions_again} |",
            f"| Hello to Welcome then | {self.admission} |",
        ]
        lines += [
            f"| age of each one's last report, look {number} | {ages} |"
            for number, ages in enumerate(self.report_ages, 1)
        ]
        return "\n".join(lines) + "\n"


class CountedReconnect(Reconnect):
    """Counts the dials that nobody answered; no Hello is said in those."""

    found_nobody = 0

    def nobody_listened(self) -> float:
        self.found_nobody += 1
        return super().nobody_listened()


class FleetAgent(Agent):
    """An agent that remembers when it asked for sessions and when they opened."""

    def __init__(self, config: Config, engine: FakeEngine) -> None:
        super().__init__(config, engine)
        self.place = CountedReconnect(
            window=config.reconnect_window.total_seconds(),
            first_pause=config.reconnect_backoff.total_seconds(),
            longest_pause=config.reconnect_backoff_limit.total_seconds(),
            now=asyncio.get_running_loop().time,
        )
        self.connection.reconnect = self.place
        self.asked_at: list[float] = []
        self.opened_at = 0.0

    def _hello(self) -> guest_pb2.Hello:
        self.asked_at.append(asyncio.get_running_loop().time())
        return super()._hello()

    def on_welcome(self, welcome: Any) -> None:
        super().on_welcome(welcome)
        self.opened_at = asyncio.get_running_loop().time()


class ControlPlane:
    """The running installation, asked as its own processes and an operator may."""

    def __init__(self, plane: Installation) -> None:
        self.plane = plane
        self.endpoints = {
            name: address
            for process in plane.status()["processes"]
            for name, address in (pair.split("=", 1) for pair in process["endpoints"])
        }
        self.bundle = (plane.state / "operator" / "identity" / "bundle.pb").read_bytes()

    def peer(self, identity: str, role: Role) -> PeerChannel:
        directory = IdentityDirectory(self.plane.state / identity / "identity")
        return PeerChannel([self.endpoints[str(role)]], identity=directory, server_role=role)

    async def register(self, count: int) -> dict[str, tuple[str, str]]:
        """Make `count` instances that nobody builds; instance id -> (tenant, token)."""
        slots = asyncio.Semaphore(_AT_ONCE)
        made: dict[str, tuple[str, str]] = {}
        async with (
            self.peer("api", Role.CONDUCTOR) as api,
            self.peer("taskmanager", Role.CONDUCTOR) as conductor,
            self.peer("taskmanager", Role.ISSUER) as issuer,
        ):

            async def one(number: int) -> None:
                tenant = f"fleet-{number // INSTANCES_PER_TENANT}"
                request = instance_pb2.CreateInstanceRequest(
                    request_id=str(uuid.uuid4()),
                    tenant_id=tenant,
                    name=f"agent-{number}",
                    flavor=resources_pb2.Flavor(id="1", name="tiny", ram_mib=512, vcpus=1),
                    volume_size_gib=1,
                    datastore="postgresql",
                )
                async with slots:
                    stub = api.stub(instance_service_pb2_grpc.InstanceServiceStub)
                    created = await call(stub.CreateInstance, request, timeout=30)
                    # Nobody is to build it: its guest is here.
                    ended = operation_service_pb2.FinishOperationRequest(
                        operation_id=created.operation_id,
                        state=resources_pb2.OPERATION_STATE_SUCCEEDED,
                    )
                    settle = conductor.stub(operation_service_pb2_grpc.OperationServiceStub)
                    await call(settle.FinishOperation, ended, timeout=30)
                    instance_id = created.instance.id
                    desk = issuer.stub(issuer_service_pb2_grpc.IssuerServiceStub)
                    subject = issuer_pb2.RegisterSubjectRequest(
                        instance_id=instance_id, tenant_id=tenant
                    )
                    await call(desk.RegisterSubject, subject, timeout=30)
                    token = await call(
                        desk.MintToken,
                        issuer_pb2.MintTokenRequest(instance_id=instance_id),
                        timeout=30,
                    )
                    made[instance_id] = (tenant, token.token)

            async with asyncio.TaskGroup() as group:
                for number in range(count):
                    group.create_task(one(number))
        return made

    async def report_ages(self, of: set[str]) -> Spread:
        """How long ago each of these was heard, as the conductor answers."""
        times = await self.report_times(of)
        now = dt.datetime.now(dt.UTC)
        return Spread.of((now - moment).total_seconds() for moment in times.values())

    async def report_times(self, of: set[str]) -> dict[str, dt.datetime]:
        """When each of these was heard last, by the conductor's clock."""
        times: dict[str, dt.datetime] = {}
        request = instance_pb2.ListInstanceViewsRequest(page_size=_PAGE)
        async with self.peer("operator", Role.CONDUCTOR) as conductor:
            while True:
                stub = conductor.stub(instance_service_pb2_grpc.InstanceServiceStub)
                page = await call(stub.ListInstanceViews, request, timeout=30, retry=True)
                for view in page.instances:
                    if view.id in of:
                        times[view.id] = view.last_report_time.ToDatetime(dt.UTC)
                request.page_token = page.next_page_token
                if not request.page_token:
                    break
        assert times.keys() == of
        return times


async def until(claim: Callable[[], bool], what: str, *, within: float) -> None:
    ends = asyncio.get_running_loop().time() + within
    while not claim():
        assert asyncio.get_running_loop().time() < ends, f"not within {within:g} s: {what}"
        await asyncio.sleep(_POLL_SECONDS)


async def drill(plane: Installation, *, agents: int, full: list[str], looks: int) -> Report:
    """Start a fleet, kill the gateway, see everybody come back; `full` are instances with engines.

    Fails when an agent is not back in its window or not heard for longer than three heartbeats.
    """
    control = ControlPlane(plane)
    registered = await control.register(agents)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        async with asyncio.TaskGroup() as group:
            fleet = [
                FleetAgent(agent_config(control, Path(folder), name, tenant, token), FakeEngine())
                for name, (tenant, token) in registered.items()
            ]
            began = loop.time()
            for agent in fleet:
                group.create_task(agent.run(stop))
            try:
                limit = 60 + agents * 0.2
                await until(lambda: _all_open(fleet), "a first session for each", within=limit)
                report = Report(
                    agents=agents, heartbeat_interval=_interval(fleet), full_agents=len(full)
                )
                report.first_sessions = Spread.of(each.opened_at - began for each in fleet)
                watched = {*registered, *full}
                await _look(control, watched, report, looks)
                await _kill_gateway_and_see_all_return(control, fleet, report)
                for name in full:
                    await asyncio.to_thread(plane.await_healthy, name)
                await _look(control, watched, report, looks)
            finally:
                stop.set()
    return report


def agent_config(
    control: ControlPlane, folder: Path, name: str, tenant: str, token: str
) -> Config:
    home = folder / name
    IdentityDirectory(home / "identity").root.mkdir(parents=True)
    (home / "identity" / "bundle.pb").write_bytes(control.bundle)
    (home / "token").write_text(token)
    return Config(
        identity=home / "identity",
        instance_id=name,
        tenant_id=tenant,
        manager="fake",
        token_file=home / "token",
        enrolment_endpoints=(control.endpoints["gateway-enrolment"],),
        guest_endpoints=(control.endpoints["gateway-guest"],),
        state_directory=home / "state",
        data_directory=home / "data",
        run_directory=home / "run",
    )


def _all_open(fleet: list[FleetAgent], *, since: float = 0.0) -> bool:
    return all(each.connection.is_open and each.opened_at > since for each in fleet)


def _interval(fleet: list[FleetAgent]) -> float:
    return max(each._heartbeat_seconds for each in fleet)


async def _look(control: ControlPlane, watched: set[str], report: Report, looks: int) -> None:
    """Nobody is starved: each look is half a heartbeat after the one before."""
    # What was said before is old news: let everybody speak once more.
    await _pass(report.heartbeat_interval * 1.5)
    for _ in range(looks):
        ages = await control.report_ages(watched)
        report.report_ages.append(ages)
        assert ages.high < 3 * report.heartbeat_interval, f"somebody is not heard: {ages}"
        await _pass(report.heartbeat_interval / 2)


async def _pass(seconds: float) -> None:
    """Let time pass: the thing measured, not a wait for something."""
    await asyncio.sleep(seconds)


async def _kill_gateway_and_see_all_return(
    control: ControlPlane, fleet: list[FleetAgent], report: Report
) -> None:
    loop = asyncio.get_running_loop()
    # Taken now: the next gateway tells the first that come back of a small fleet's window.
    told = [each.connection.reconnect.window for each in fleet]
    report.reconnect_window = max(told)
    pids = {
        name: await asyncio.to_thread(control.plane.pid_of, name)
        for name in ("gateway", "conductor")
    }
    for each in fleet:
        each.asked_at.clear()
        each.place.found_nobody = 0
    before = {"conductor": _cpu_seconds(pids["conductor"]), "the agents": time.process_time()}
    killed = loop.time()
    os.kill(pids["gateway"], signal.SIGKILL)
    served = await asyncio.to_thread(
        _served_again, pids["gateway"], control.endpoints["gateway-guest"]
    )
    report.down = served - killed
    async with _late_ticks() as late:
        # The check below is the judge; this is for a fleet that does not come back at all.
        limit = 120 + 10 * report.reconnect_window
        await until(lambda: _all_open(fleet, since=killed), "every session again", within=limit)
    report.lateness = max(late)
    gateway = await asyncio.to_thread(control.plane.pid_of, "gateway")
    spent = {
        "the gateway with its start": _cpu_seconds(gateway),
        "conductor": _cpu_seconds(pids["conductor"]) - before["conductor"],
        "the agents": time.process_time() - before["the agents"],
    }
    report.found_nobody = sum(each.place.found_nobody > 0 for each in fleet)
    report.cpu = {name: 1000 * seconds / len(fleet) for name, seconds in spent.items()}
    report.asked_again = Spread.of(max(0.0, each.asked_at[-1] - served) for each in fleet)
    report.sessions_again = Spread.of(max(0.0, each.opened_at - served) for each in fleet)
    report.admission = Spread.of(each.opened_at - each.asked_at[-1] for each in fleet)
    report.load_average = os.getloadavg()[0]
    missed = misses(
        (
            Return(
                name=each.identity.me.instance_id,
                window=stretched(window, report.down, longest=_longest_pause(each)),
                asked=tuple(each.asked_at),
            )
            for each, window in zip(fleet, told, strict=True)
        ),
        served=served,
        lateness=report.lateness,
    )
    report.missed = len(missed)
    said = "\n".join([f"{len(missed)} of {len(fleet)} were not back in time:", *missed[:20]])
    assert not missed, f"{said}\n{report.markdown()}"


def _served_again(killed: int, endpoint: str) -> float:
    """The moment from which the guest port takes connections again."""
    host, _, port = endpoint.rpartition(":")
    ends = time.monotonic() + 60
    while Path(f"/proc/{killed}").exists():  # until then the kernel takes them for it
        assert time.monotonic() < ends, f"process {killed} does not end"
        time.sleep(_TICK_SECONDS)
    while True:
        with (
            contextlib.suppress(ConnectionRefusedError),
            socket.create_connection((host, int(port))),
        ):
            return time.monotonic()
        assert time.monotonic() < ends, f"nobody serves {endpoint}"
        time.sleep(_TICK_SECONDS)


def _longest_pause(agent: FleetAgent) -> float:
    return agent._config.reconnect_backoff_limit.total_seconds()


@contextlib.asynccontextmanager
async def _late_ticks() -> AsyncIterator[list[float]]:
    """By how much each tick of this event loop was late."""
    loop, late = asyncio.get_running_loop(), [0.0]

    async def tick() -> None:
        while True:
            due = loop.time() + _TICK_SECONDS
            await _pass(_TICK_SECONDS)
            late.append(loop.time() - due)

    ticking = asyncio.create_task(tick(), name="ticks")
    try:
        yield late
    finally:
        ticking.cancel()


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
