"""A fleet against a real control plane: agents by the thousand in this process, each with its own
key, its own token and its own TLS connection, beside a few that are whole processes with engines.

What is watched is what an operator would see: the moment an agent's session opens, and the age of
its last report in the conductor's database of record.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import statistics
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from guestagent.agent import Agent
from guestagent.config import Config
from tests.acceptance.installation import Installation
from tests.fakes.engine import FakeEngine
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
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory

# The default quota of a tenant.
INSTANCES_PER_TENANT = 10
_AT_ONCE = 16
_PAGE = 100
_POLL_SECONDS = 0.05


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
    # From the moment the gateway served again.
    sessions_again: Spread | None = None
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
                f"{self.down:.1f} s."
            ),
            "",
            "| seconds | min / median / max |",
            "|---|---|",
            f"| start of all agents at once to each one's session | {self.first_sessions} |",
            f"| gateway serving again to each one's session | {self.sessions_again} |",
        ]
        lines += [
            f"| age of each one's last report, look {number} | {ages} |"
            for number, ages in enumerate(self.report_ages, 1)
        ]
        return "\n".join(lines) + "\n"


class FleetAgent(Agent):
    """An agent that remembers when its sessions opened, and what it was asked."""

    opened_at = 0.0
    window = 0.0

    def on_welcome(self, welcome: Any) -> None:
        super().on_welcome(welcome)
        self.opened_at = asyncio.get_running_loop().time()
        self.window = welcome.settings.reconnect_window.ToTimedelta().total_seconds()


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
        ages: dict[str, float] = {}
        request = instance_pb2.ListInstanceViewsRequest(page_size=_PAGE)
        async with self.peer("operator", Role.CONDUCTOR) as conductor:
            while True:
                stub = conductor.stub(instance_service_pb2_grpc.InstanceServiceStub)
                page = await call(stub.ListInstanceViews, request, timeout=30, retry=True)
                for view in page.instances:
                    if view.id in of:
                        ages[view.id] = _age(view.last_report_time)
                request.page_token = page.next_page_token
                if not request.page_token:
                    break
        assert ages.keys() == of
        return Spread.of(ages.values())


def _age(moment: Timestamp) -> float:
    return (dt.datetime.now(dt.UTC) - moment.ToDatetime(dt.UTC)).total_seconds()


async def until(claim: Callable[[], bool], what: str, *, within: float) -> None:
    ends = asyncio.get_running_loop().time() + within
    while not claim():
        assert asyncio.get_running_loop().time() < ends, f"not within {within:g} s: {what}"
        await asyncio.sleep(_POLL_SECONDS)


async def drill(plane: Installation, *, agents: int, full: list[str], looks: int) -> Report:
    """Start a fleet, kill the gateway, see everybody come back; `full` are instances with engines.

    Fails when an agent has no session in time or is not heard for longer than three heartbeats.
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
                report.reconnect_window = max(each.window for each in fleet)
                watched = {*registered, *full}
                await _look(control, watched, report, looks)
                report.down = await _kill_gateway(control)
                served = loop.time()
                # Besides its window, an agent may have begun its longest pause just before.
                limit = 60 + report.reconnect_window + agents * 0.05
                await until(
                    lambda: _all_open(fleet, since=served - report.down),
                    "every session again",
                    within=limit,
                )
                report.sessions_again = Spread.of(
                    max(0.0, each.opened_at - served) for each in fleet
                )
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


async def _kill_gateway(control: ControlPlane) -> float:
    """Kill the gateway; returns when its successor serves, with the time in between."""
    loop = asyncio.get_running_loop()
    pid = await asyncio.to_thread(control.plane.pid_of, "gateway")
    began = loop.time()
    os.kill(pid, signal.SIGKILL)
    ask: Callable[[], Awaitable[Any]] = lambda: asyncio.to_thread(control.plane.status)  # noqa: E731
    while True:
        processes = (await ask())["processes"]
        (gateway,) = (each for each in processes if each["name"] == "gateway")
        if gateway["ready"] and gateway["pid"] != pid:
            return loop.time() - began
        assert loop.time() - began < 60, gateway
