"""The real process, its peers on real sockets: create, kill -9, silence, canaries."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from taskmanager.__main__ import serve
from taskmanager.config import Config
from tests.fakes.taskmanager_peers import INSTANCE, OPERATION
from trove_grpc.client import PeerChannel, call
from trove_grpc.config import load
from trove_grpc.errors import NotFoundError, PermissionDeniedError, TroveError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb
from trove_grpc.gen.taskmanager.v1 import task_manager_service_pb2 as pb
from trove_grpc.gen.taskmanager.v1 import task_manager_service_pb2_grpc as rpc
from trove_grpc.identity import Role

REPOSITORY = Path(__file__).parents[3]
OPEN = (resources_pb2.OPERATION_STATE_PENDING, resources_pb2.OPERATION_STATE_RUNNING)


async def eventually(condition, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  another process changes it
            await asyncio.sleep(0.02)


def settings(peers, addresses, folder: Path) -> dict[str, object]:
    peers.identity(Role.TASKMANAGER)
    return {
        "identity": str(folder / f"identity-{Role.TASKMANAGER}"),
        "listen": "127.0.0.1:0",
        "issuer": [addresses.issuer],
        "conductor": [addresses.conductor],
        "flow_database_url": f"sqlite:///{folder}/flows/flows.sqlite",
        "supervisor_socket": str(addresses.supervisor),
        "enrolment_endpoints": ["127.0.0.1:1"],
        "guest_endpoints": ["127.0.0.1:2"],
        "agent_deadline": 2,
        "sweep_interval": 0.2,
        "drain_timeout": 1,
    }


class Process:
    """`python -m taskmanager`, to be killed."""

    def __init__(self, folder: Path, values: dict[str, object]) -> None:
        self._folder = folder
        text = "\n".join(f"{key} = {toml(value)}" for key, value in values.items())
        (folder / "config.toml").write_text(text)
        self.log = folder / "log"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "taskmanager",
                "--config",
                str(self._folder / "config.toml"),
                cwd=REPOSITORY,
                stderr=log,
                start_new_session=True,
            )

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.process.wait()


def toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(toml(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


@pytest.fixture
async def process(peers, folder):
    async with peers.serving() as addresses:
        peers.conductor.sessions[INSTANCE] = addresses.gateway
        process = Process(folder, settings(peers, addresses, folder))
        yield process
        if process.process is not None:
            await process.end(signal.SIGKILL)


async def test_a_create_survives_kill_9_and_no_secret_is_left_anywhere(process, peers, folder):
    peers.conductor.add_operation()
    await process.start()
    await eventually(lambda: peers.conductor.steps().get("await_agent") == "RUNNING")
    environment = Path(f"/proc/{process.process.pid}/environ")
    command = Path(f"/proc/{process.process.pid}/cmdline")
    shown = command.read_bytes() + (environment.read_bytes() if os.geteuid() == 0 else b"")
    await process.end(signal.SIGKILL)
    written = kept_bytes(folder)  # what a crash leaves: the write-ahead log too

    peers.conductor.set_guest(engine_pb2.ENGINE_STATE_NEW)
    await process.start()
    await eventually(lambda: peers.conductor.operation().state not in OPEN)
    assert await process.end(signal.SIGTERM) == 0
    written += kept_bytes(folder)

    assert peers.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED
    assert set(peers.conductor.steps().values()) == {"SUCCEEDED"}
    assert peers.compute.boots == 1
    assert len(peers.guests.commands) == 1
    assert len(peers.issuer.tokens) == 1, "the boot step was recorded before the kill"
    assert b"token-id-1" in written, "the search looks at the right files"
    assert b"canary" not in written + shown


async def test_a_kill_inside_the_boot_step_voids_the_token_and_mints_another(process, peers):
    peers.conductor.add_operation()
    release = asyncio.Event()
    inside = asyncio.Event()
    boot = peers.compute.ensure_guest

    async def slow_boot(spec):
        guest = await boot(spec)
        inside.set()
        await release.wait()
        return guest

    peers.compute.ensure_guest = slow_boot
    await process.start()
    async with asyncio.timeout(60):
        await inside.wait()
    await process.end(signal.SIGKILL)
    release.set()
    peers.compute.ensure_guest = boot
    peers.conductor.set_guest(engine_pb2.ENGINE_STATE_NEW)
    await process.start()
    await eventually(lambda: peers.conductor.operation().state not in OPEN)
    assert peers.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED
    assert peers.compute.boots == 1
    assert peers.compute.tokens == ["canary-token-1", "canary-token-2"]


async def test_a_silent_guest_ends_in_a_fault_and_is_undone(process, peers, folder):
    peers.conductor.add_operation()
    await process.start()
    await eventually(lambda: peers.conductor.operation().state not in OPEN)
    operation = peers.conductor.operation()
    assert operation.state == resources_pb2.OPERATION_STATE_FAILED
    assert "the guest never called home within 2 s" in operation.fault.message
    assert not peers.compute.guests
    assert INSTANCE in peers.issuer.retired
    assert b"canary" not in kept_bytes(folder)


async def test_a_conductor_that_is_away_for_a_while_changes_nothing(process, peers):
    peers.conductor.add_operation()
    peers.conductor.set_guest(engine_pb2.ENGINE_STATE_NEW)
    await process.start()
    await eventually(lambda: "register_identity" in peers.conductor.steps())
    peers.conductor.down = True
    loop = asyncio.get_running_loop()
    loop.call_later(2, setattr, peers.conductor, "down", False)
    await eventually(lambda: peers.conductor.operation().state not in OPEN)
    assert peers.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED


async def test_the_process_says_clearly_what_is_wrong_with_its_settings(process, folder):
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("guest_endpoints", "guest_endpoint"))
    await process.start()
    assert await process.process.wait() == 1
    assert "unknown setting 'guest_endpoint'" in process.log.read_text()


@pytest.fixture
async def running(peers, folder):
    """serve() in this process; yields (port, addresses)."""
    async with peers.serving() as addresses:
        values = settings(peers, addresses, folder)
        config = load(Config, overrides=values)
        stop, ports = asyncio.Event(), asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(serve(config, stop, started=ports.put_nowait))
            port = await ports.get()
            yield port
            stop.set()


async def test_wake_starts_a_delete_at_once(running, peers):
    identity = peers.identity(Role.API)
    async with PeerChannel(
        [f"127.0.0.1:{running}"], identity=identity, server_role=Role.TASKMANAGER
    ) as channel:
        stub = channel.stub(rpc.TaskManagerServiceStub)
        with pytest.raises(NotFoundError):
            await call(stub.Wake, pb.WakeRequest(operation_id="nothing"), timeout=5)
        peers.conductor.add_operation(kind="delete_instance")
        for _ in range(2):
            await call(stub.Wake, pb.WakeRequest(operation_id=OPERATION), timeout=5)
        flavors = await call(stub.ListFlavors, pb.ListFlavorsRequest(), timeout=5)
    assert [flavor.name for flavor in flavors.flavors] == ["db.tiny", "db.small", "db.medium"]
    await eventually(lambda: peers.conductor.operation().state not in OPEN)
    assert list(peers.conductor.steps()) == ["remove_guest", "retire_identity", "finish"]


async def test_only_the_api_may_wake(running, peers):
    async with PeerChannel(
        [f"127.0.0.1:{running}"],
        identity=peers.identity(Role.GATEWAY),
        server_role=Role.TASKMANAGER,
    ) as channel:
        stub = channel.stub(rpc.TaskManagerServiceStub)
        with pytest.raises(PermissionDeniedError):
            await call(stub.Wake, pb.WakeRequest(operation_id=OPERATION), timeout=5)


async def test_a_denied_service_is_refused_and_its_like_are_not(running, peers):
    stolen, honest = peers.identity(Role.API), peers.identity(Role.CONDUCTOR)

    async def answer(identity) -> str:
        async with PeerChannel(
            [f"127.0.0.1:{running}"], identity=identity, server_role=Role.TASKMANAGER
        ) as channel:
            health = channel.stub(health_pb2_grpc.HealthStub)
            try:
                await call(health.Check, health_pb2.HealthCheckRequest(), timeout=5)
            except TroveError as error:
                return error.reason
            return "served"

    assert await answer(stolen) == "served"
    peers.denials.append(
        issuer_pb.Denial(
            sequence=1, kind=issuer_pb.DENIAL_KIND_SERIAL, value=stolen.load().facts.serial
        )
    )
    async with asyncio.timeout(10):
        while await answer(stolen) != "CERTIFICATE_DENIED":
            pass
    assert await answer(honest) == "served"


def kept_bytes(folder: Path) -> bytes:
    """The flow log with its write-ahead log, and the process's log."""
    files = [*folder.joinpath("flows").rglob("*"), folder / "log"]
    return b"".join(path.read_bytes() for path in files if path.is_file())
