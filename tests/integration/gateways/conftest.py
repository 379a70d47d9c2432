"""A region: the real issuer and conductor in this process, gateways as processes, real agents.

Agents run in this process too, each with its own key, over real TLS; only their engines are made
of memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conductor.config import Config as ConductorConfig
from conductor.config import Quotas
from conductor.server import serve as serve_conductor
from guestagent.agent import Agent
from guestagent.config import Config as AgentConfig
from pki import enrolment
from pki.custody import FileCustody
from pki.issuer import bootstrap
from pki.issuer.config import Config as IssuerConfig
from pki.issuer.process import serve as serve_issuer
from pki.store import Store
from taskmanager.grpc_peers import GrpcConductor
from tests.fakes.engine import FakeEngine
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.conductor.v1 import instance_service_pb2 as instance_pb2
from trove_grpc.gen.conductor.v1 import instance_service_pb2_grpc as instance_rpc
from trove_grpc.gen.conductor.v1 import report_service_pb2 as report_pb2
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as issuer_rpc
from trove_grpc.guests import GrpcGateways, SessionGuests
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory
from trovectl import toml

TENANT = "tenant-a"
ROOT = Path(__file__).resolve().parents[3]
_ENDPOINTS = re.compile(r"serving enrolment=([\d.:]+) guest=([\d.:]+) internal=([\d.:]+)")


def seconds(value: float) -> dt.timedelta:
    return dt.timedelta(seconds=value)


async def eventually(claim: Callable[[], Any], what: str, *, within: float = 30) -> Any:
    """The first true value of `claim` (or of what it awaits); fails with `what`."""
    ends = time.monotonic() + within
    while True:
        value = claim()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < ends, f"not within {within:g} s: {what} (last: {value!r})"
        await asyncio.sleep(0.05)


@dataclass
class Gateway:
    """One gateway's process."""

    name: str
    log: Path
    process: asyncio.subprocess.Process
    enrolment: str
    guest: str
    internal: str

    async def kill(self) -> None:
        """kill -9."""
        await self.end(signal.SIGKILL)

    async def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()


@dataclass
class Guest:
    """One agent in this process, with what it reported."""

    instance_id: str
    config: AgentConfig
    engine: FakeEngine = field(default_factory=FakeEngine)
    agent: Agent | None = None
    changes: list[str] = field(default_factory=list)  # ids of the changes it wanted told
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    @property
    def identity(self) -> IdentityDirectory:
        return IdentityDirectory(self.config.identity)

    @property
    def expires_in(self) -> float:
        return (
            self.identity.load().leaf.not_valid_after_utc - dt.datetime.now(dt.UTC)
        ).total_seconds()

    @property
    def is_connected(self) -> bool:
        return self.agent is not None and self.agent.connection.is_open

    def new_agent(self) -> Agent:
        return Agent(self.config, self.engine)

    def start(self) -> None:
        self._stop = asyncio.Event()
        self.agent = self.new_agent()
        put = self.agent.outbox.put_change

        def witnessed(change: guest_pb2.Change) -> None:
            self.changes.append(change.change_id)
            put(change)

        self.agent.outbox.put_change = witnessed  # type: ignore[method-assign]
        self._task = asyncio.create_task(self.agent.run(self._stop))

    async def stop(self) -> None:
        self._stop.set()
        if self._task is not None:
            task, self._task = self._task, None
            await task

    async def crash_engine(self) -> None:
        """The engine dies; the agent starts it again and reports both."""
        assert self.agent is not None
        starts = self.engine.starts
        self.engine.is_running = False
        await eventually(lambda: self.engine.starts > starts, "the engine started again")


class Region:
    """Everything under test."""

    def __init__(self, root: Path, stack: contextlib.AsyncExitStack) -> None:
        self.root = root
        self.stack = stack
        self.gateways: dict[str, Gateway] = {}
        self.issuer_config = IssuerConfig(
            identity=root / "issuer" / "identity",
            operator_socket=root / "issuer" / "run" / "operator.sock",
            database_url=f"sqlite:///{root}/pki.db",
            custody_directory=root / "custody",
            passphrase_file=root / "secret" / "passphrase",
        )
        self.issuer_port = self.conductor_port = 0
        self.lookups = 0
        self._stop_issuer: Callable[[], Awaitable[None]] = _nothing

    async def start(self, **issuer_settings: Any) -> None:
        config = self.issuer_config = dataclasses.replace(self.issuer_config, **issuer_settings)
        custody = FileCustody(config.custody_directory, config.passphrase_file)
        custody.prepare()
        store = Store(config.database_url)
        store.migrate()
        now = dt.datetime.now(dt.UTC)
        store.run_now(lambda session: bootstrap.initialise(session, custody, config, now))
        store.close()
        await self.start_issuer()
        self.conductor_port = await self._run_conductor()

    async def start_issuer(self, **settings: Any) -> None:
        """Start or restart the issuer, on the same port."""
        await self._stop_issuer()
        config = self.issuer_config = dataclasses.replace(
            self.issuer_config, listen=f"127.0.0.1:{self.issuer_port}", **settings
        )
        self.issuer_port, self._stop_issuer = await self._run(
            lambda stop, ready: serve_issuer(config, stop, ready)
        )

    async def _run_conductor(self) -> int:
        (self.root / "conductor").mkdir()
        identity = await self.identity(Role.CONDUCTOR)

        async def serve(stop: asyncio.Event, ready: Callable[[int], None]) -> None:
            started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            started.add_done_callback(
                lambda port: None if port.cancelled() else ready(port.result())
            )
            await serve_conductor(
                ConductorConfig(
                    identity=identity.root,
                    database_url=f"sqlite:///{self.database}",
                    sealing_key_file=self.root / "conductor" / "sealing.key",
                    issuer=(f"127.0.0.1:{self.issuer_port}",),
                    drain_timeout=seconds(0.5),
                    heartbeat_interval=seconds(0.5),
                    quotas=Quotas(instances=1000, volumes=1000),
                ),
                stop,
                started=started,
            )

        port, _ = await self._run(serve)
        return port

    async def _run(self, serve: Any) -> tuple[int, Callable[[], Awaitable[None]]]:
        stop = asyncio.Event()
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve(stop, ready.set_result))

        async def end() -> None:
            stop.set()
            await task

        self.stack.push_async_callback(end)
        await asyncio.wait({ready, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        return ready.result(), end

    async def start_gateway(
        self, name: str, *, environment: Mapping[str, str] | None = None, **settings: Any
    ) -> Gateway:
        """Start `python -m gateway.guest`; an earlier one of this name gives it its ports."""
        earlier = self.gateways.get(name)
        identity = await self.identity(Role.GATEWAY, name)
        config = self.root / f"{name}.toml"
        text = toml.dumps(
            {
                "identity": identity.root,
                "enrolment_listen": earlier.enrolment if earlier else "127.0.0.1:0",
                "guest_listen": earlier.guest if earlier else "127.0.0.1:0",
                "internal_listen": earlier.internal if earlier else "127.0.0.1:0",
                "conductor": [f"127.0.0.1:{self.conductor_port}"],
                "issuer": [f"127.0.0.1:{self.issuer_port}"],
                "denial_poll": 0.2,
                "renewals_per_hour": 10_000,
                "connects_per_minute": 6000,
                **settings,
            }
        )
        config.write_text(text)
        log = self.root / f"{name}.log"
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway.guest", "--config", str(config)),
                cwd=self.root,
                stderr=stream,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **(environment or {})},
            )

        async def end() -> None:
            if process.returncode is None:
                process.kill()
            await process.wait()

        self.stack.push_async_callback(end)

        def found() -> re.Match[str] | None:
            assert process.returncode is None, log.read_text()
            return _ENDPOINTS.search(log.read_text())

        match = await eventually(found, f"{name} serves")
        gateway = Gateway(name, log, process, *match.groups())
        self.gateways[name] = gateway
        return gateway

    async def identity(self, role: Role, host: str = "local") -> IdentityDirectory:
        identity = IdentityDirectory(self.root / "identities" / f"{role}-{host}")
        if not identity.exists():
            await enrolment.enrol_service(self.issuer_config.operator_socket, role, host, identity)
        return identity

    async def channel(self, caller: Role, server: Role, port: int) -> PeerChannel:
        identity = await self.identity(caller)
        channel = PeerChannel([f"127.0.0.1:{port}"], identity=identity, server_role=server)
        self.stack.push_async_callback(channel.close)
        return channel

    async def issuer(self) -> Any:
        channel = await self.channel(Role.TASKMANAGER, Role.ISSUER, self.issuer_port)
        return channel.stub(issuer_rpc.IssuerServiceStub)

    # Guests.

    async def guest(self, **changes: Any) -> Guest:
        """A guest with a token that knows the gateways there are now; not started."""
        channel = await self.channel(Role.API, Role.CONDUCTOR, self.conductor_port)
        created = await call(
            channel.stub(instance_rpc.InstanceServiceStub).CreateInstance,
            instance_pb2.CreateInstanceRequest(
                request_id=str(uuid.uuid4()),
                tenant_id=TENANT,
                name="sleeper",
                volume_size_gib=1,
                flavor=resources_pb2.Flavor(id="1", ram_mib=512),
            ),
            timeout=10,
        )
        instance_id = created.instance.id
        issuer = await self.issuer()
        await call(
            issuer.RegisterSubject,
            issuer_pb2.RegisterSubjectRequest(instance_id=instance_id, tenant_id=TENANT),
            timeout=10,
        )
        minted = await call(
            issuer.MintToken, issuer_pb2.MintTokenRequest(instance_id=instance_id), timeout=10
        )
        home = self.root / f"guest-{instance_id}"
        IdentityDirectory(home / "identity").store_bundle(
            (await self.identity(Role.GATEWAY, next(iter(self.gateways)))).bundle()
        )
        token = home / "token"
        token.touch(mode=0o600)
        token.write_text(minted.token)
        config = AgentConfig(
            identity=home / "identity",
            instance_id=instance_id,
            tenant_id=TENANT,
            manager="fake",
            token_file=token,
            enrolment_endpoints=tuple(each.enrolment for each in self.gateways.values()),
            guest_endpoints=tuple(each.guest for each in self.gateways.values()),
            state_directory=home / "state",
            data_directory=home / "data",
            run_directory=home / "run",
            health_interval=seconds(0.05),
            reconnect_backoff=seconds(0.2),
            reconnect_backoff_limit=seconds(2),
            engine_restart_backoff=seconds(0.05),
            engine_restart_backoff_limit=seconds(0.05),
            engine_restart_limit=1000,
            resend_interval=seconds(2),
            **changes,
        )
        guest = Guest(instance_id, config)
        self.stack.push_async_callback(guest.stop)
        return guest

    async def started_guest(self) -> Guest:
        """A connected guest with a running engine."""
        guest = await self.guest()
        guest.start()
        await eventually(lambda: guest.is_connected, "the agent connected")
        return guest

    async def prepare(self, guest: Guest) -> None:
        """Have the guest's engine made, as the task manager would."""
        guests = await self.guests()
        command = guest_pb2.Command(
            command_id=f"prepare-{guest.instance_id}",
            prepare=guest_pb2.PrepareAction(
                manager="fake", version="1", listen_addresses=["127.0.0.1"], port=1
            ),
        )
        command.timeout.FromTimedelta(seconds(20))
        await guests.send_command(guest.instance_id, command)

    async def guests(self) -> SessionGuests:
        """The task manager's way to guests; `lookups` counts its questions."""
        channel = await self.channel(Role.TASKMANAGER, Role.CONDUCTOR, self.conductor_port)
        conductor = GrpcConductor(channel)
        gateways = GrpcGateways(await self.identity(Role.TASKMANAGER))
        self.stack.push_async_callback(gateways.close)

        async def lookup(instance_id: str) -> report_pb2.LookupSessionResponse:
            self.lookups += 1
            return await conductor.lookup_session(instance_id)

        return SessionGuests(lookup, gateways)

    async def view(self, guest: Guest) -> resources_pb2.InstanceView:
        channel = await self.channel(Role.API, Role.CONDUCTOR, self.conductor_port)
        response = await call(
            channel.stub(instance_rpc.InstanceServiceStub).GetInstanceView,
            instance_pb2.GetInstanceViewRequest(tenant_id=TENANT, instance_id=guest.instance_id),
            timeout=10,
        )
        view: resources_pb2.InstanceView = response.instance
        return view

    # What was written.

    @property
    def database(self) -> Path:
        return self.root / "conductor" / "conductor.db"

    def query(self, sql: str, *values: object, database: Path | None = None) -> list[Any]:
        with contextlib.closing(sqlite3.connect(database or self.database, timeout=10)) as found:
            rows = found.execute(sql, values).fetchall()
            found.commit()
            return rows

    def audit(self, action: str) -> list[tuple[str, str]]:
        """(subject, why or serial) of the issuer's rows of this action."""
        rows = self.query(
            "SELECT subject, detail FROM audit WHERE action = ? ORDER BY sequence",
            action,
            database=self.root / "pki.db",
        )
        return [(subject, json.loads(detail).get("why", "")) for subject, detail in rows]

    def witness_order(self) -> None:
        """Have the conductor's database note every state of every guest, as it is written."""
        self.query(
            "CREATE TABLE witness (number INTEGER PRIMARY KEY, instance_id TEXT,"
            " session_epoch INTEGER, sequence INTEGER, start_count INTEGER)"
        )
        self.query(
            "CREATE TRIGGER witness AFTER UPDATE ON guest_presence BEGIN INSERT INTO witness"
            " (instance_id, session_epoch, sequence, start_count) VALUES (new.instance_id,"
            " new.session_epoch, new.sequence, new.start_count); END"
        )

    def witnessed(self, guest: Guest) -> list[tuple[int, int, int]]:
        """(epoch, sequence, start count) in the order in which they were written."""
        return self.query(
            "SELECT session_epoch, sequence, start_count FROM witness WHERE instance_id = ?"
            " ORDER BY number",
            guest.instance_id,
        )

    def reports(self, guest: Guest) -> set[str]:
        """Ids of the guest's reports that were applied."""
        rows = self.query(
            "SELECT report_id FROM guest_reports WHERE instance_id = ?", guest.instance_id
        )
        return {row[0] for row in rows}

    async def settled(self, guest: Guest) -> None:
        """Every change of the guest was applied, none later than a newer one."""
        agent = guest.agent
        assert agent is not None
        await eventually(lambda: not agent.outbox.unacknowledged, "every change acknowledged")
        assert set(guest.changes) <= self.reports(guest)
        seen = self.witnessed(guest)
        assert [row[:2] for row in seen] == sorted(row[:2] for row in seen)
        counts = [row[2] for row in seen]
        assert counts == sorted(counts)
        starts = agent.watcher.observation().start_count
        view = await self.view(guest)
        assert view.observation.start_count == starts


async def _nothing() -> None:
    """There is no issuer to stop yet."""


@pytest.fixture
async def region() -> AsyncIterator[Region]:
    # pytest's own paths are too long for a UNIX socket.
    root = Path(tempfile.mkdtemp(prefix="trove-region-"))
    try:
        async with contextlib.AsyncExitStack() as stack:
            yield Region(root, stack)
    finally:
        shutil.rmtree(root, ignore_errors=True)
