"""Local guests over the supervisor's socket, with a small agent that starts a small engine."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from trove_grpc.client import call, open_local_channel
from trove_grpc.errors import ConflictError, InvalidRequestError, UnavailableError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2 as rpc
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2_grpc as rpc_grpc
from trove_grpc.server import build_local_server
from trovectl import layout, procfs
from trovectl.accounts import Accounts, OneUser, SystemUsers
from trovectl.children import Backoff
from trovectl.guests import Guests
from trovectl.layout import Layout
from trovectl.plane import ControlPlane
from trovectl.records import Records
from trovectl.runtime import Runtime
from trovectl.service import SupervisorService

# Starts an engine in a session of its own unless one runs, as real agents do; SIGTERM leaves the
# engine, SIGUSR1 takes it along.
AGENT = """
import os, pathlib, signal, subprocess, sys, tomllib
config = tomllib.loads(pathlib.Path(sys.argv[2]).read_text())
home = pathlib.Path(config["data_directory"])
pidfile = home / "engine.pid"
def alive():
    try:  # a zombie is dead
        stat = pathlib.Path(f"/proc/{pidfile.read_text()}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
if not alive() and os.access(home, os.W_OK):
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                              cwd=home, start_new_session=True)
    pidfile.write_text(str(engine.pid))
token = pathlib.Path(config["token_file"])
if token.exists():
    folder = pathlib.Path(config["identity"]) / "current"
    folder.mkdir()
    (folder / "chain.pem").write_text("from " + token.read_text())
    token.unlink()
signals = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
if signal.sigwait(signals) == signal.SIGUSR1 and os.access(home, os.W_OK):
    os.kill(int(pidfile.read_text()), signal.SIGKILL)
"""
LAUNCHER = "import time; time.sleep(600)"
OURSELVES = OneUser()
BUNDLE = trust_pb2.TrustBundle(
    version=1, authorities=[trust_pb2.AuthorityCertificate(certificate_pem=b"x")]
).SerializeToString()


async def eventually(claim: Callable[[], object], seconds: float = 10) -> None:
    ends = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < ends, "did not become true in time"
        await asyncio.sleep(0.02)


class Machine:
    """A state directory and whoever looks after it now."""

    def __init__(self, state: Path, accounts: Accounts = OURSELVES) -> None:
        self.places = Layout(state)
        self.accounts = accounts
        (state / "packages" / "guestagent").mkdir(parents=True)
        (state / "packages" / "guestagent" / "__main__.py").write_text(AGENT)
        (state / "packages" / "guestagent" / "__init__.py").touch()
        (state / "packages" / "guestagent" / "launcher.py").write_text(LAUNCHER)
        self.runtime = Runtime(
            (os.path.realpath(sys.executable),), {"PYTHONPATH": str(state / "packages")}
        )
        self.places.guests.mkdir()
        self.guests = self.next_supervisor()

    def next_supervisor(self) -> Guests:
        """As after kill -9: nothing in memory, everything on disk, processes still there."""
        records = Records(self.places.records)
        records.load()
        self.guests = Guests(
            self.places,
            accounts=self.accounts,
            runtime=self.runtime,
            records=records,
            backoff=Backoff(first=0.02),
            settings={},
        )
        self.guests.load()
        return self.guests

    def engine_pid(self, instance_id: str) -> int:
        path = self.places.guest(instance_id) / "engine" / "engine.pid"
        return int(path.read_text()) if path.exists() and path.read_text() else 0


def wish(instance_id: str, **changes: object) -> rpc.EnsureGuestRequest:
    fields = {
        "instance_id": instance_id,
        "tenant_id": "t",
        "enrolment_token": "one-time",
        "trust_bundle": BUNDLE,
        "enrolment_endpoints": ["127.0.0.1:1"],
        "guest_endpoints": ["127.0.0.1:2"],
        "manager": "postgresql",
    }
    return rpc.EnsureGuestRequest(**{**fields, **changes})


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    built = Machine(tmp_path)
    yield built
    await built.guests.stop()
    assert procfs.under(built.places.guests) == []


async def running(machine: Machine) -> str:
    instance_id = str(uuid.uuid4())
    await machine.guests.allocate(instance_id, 5432)
    guest = await machine.guests.ensure(wish(instance_id))
    await eventually(lambda: guest.has_identity and machine.engine_pid(instance_id))
    return instance_id


async def test_address_stays_the_same_and_no_two_guests_share_one(machine):
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    address = await machine.guests.allocate(first, 5432)
    assert address.startswith("127.")
    assert await machine.guests.allocate(first, 5432) == address
    assert await machine.guests.allocate(second, 5432) != address
    machine.next_supervisor()
    await machine.guests.recover()
    assert await machine.guests.allocate(first, 5432) == address


async def test_port_taken_on_every_address_is_an_error_that_names_the_process(machine):
    with socket.socket() as everywhere:
        everywhere.bind(("0.0.0.0", 0))  # noqa: S104
        everywhere.listen()
        port = everywhere.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"pid {os.getpid()}"):
            await machine.guests.allocate(str(uuid.uuid4()), port)


async def test_guest_starts_with_its_token_in_a_private_file(machine):
    instance_id = await running(machine)
    root = machine.places.guest(instance_id)
    assert (root / "agent").stat().st_mode & 0o777 == 0o700
    assert "one-time" not in (root / "agent.toml").read_text()
    assert (root / "agent/identity/current/chain.pem").read_text() == "from one-time"


async def test_ensuring_twice_leaves_the_agent_alone(machine):
    instance_id = await running(machine)
    pid = machine.guests.list()[0].agent_pid
    guest = await machine.guests.ensure(wish(instance_id, enrolment_token="another"))
    assert guest.agent_pid == pid


async def test_new_endpoints_restart_the_agent_and_leave_the_engine_alone(machine):
    instance_id = await running(machine)
    agent, engine = machine.guests.list()[0].agent_pid, machine.engine_pid(instance_id)
    guest = await machine.guests.ensure(wish(instance_id, guest_endpoints=["127.0.0.1:3"]))
    assert guest.agent_pid not in (0, agent)
    assert machine.engine_pid(instance_id) == engine


async def test_guest_without_identity_needs_a_token(machine):
    instance_id = str(uuid.uuid4())
    await machine.guests.allocate(instance_id, 5432)
    with pytest.raises(InvalidRequestError, match="enrolment token"):
        await machine.guests.ensure(wish(instance_id, enrolment_token=""))


async def test_guest_without_an_address_is_refused(machine):
    with pytest.raises(ConflictError, match="allocate one first"):
        await machine.guests.ensure(wish(str(uuid.uuid4())))


@pytest.mark.parametrize("name", ["..", "a/b", "", "0" * 36])
async def test_name_that_is_no_instance_id_never_becomes_a_path(machine, name):
    with pytest.raises(InvalidRequestError):
        await machine.guests.allocate(name, 5432)
    with pytest.raises(InvalidRequestError):
        await machine.guests.remove(name)


async def test_next_supervisor_adopts_agent_and_engine(machine):
    instance_id = await running(machine)
    agent, engine = machine.guests.list()[0].agent_pid, machine.engine_pid(instance_id)
    old = machine.guests
    machine.next_supervisor()
    await machine.guests.recover()
    assert machine.guests.list()[0].agent_pid == agent
    assert machine.engine_pid(instance_id) == engine
    await machine.guests.stop()
    await old.stop()


async def test_next_supervisor_brings_back_a_guest_that_died_with_the_old_one(machine):
    instance_id = await running(machine)
    await machine.guests.stop()
    assert procfs.under(machine.places.guests) == []
    machine.next_supervisor()
    await machine.guests.recover()
    await eventually(lambda: procfs.identify(machine.engine_pid(instance_id)))
    assert machine.guests.list()[0].agent_pid


async def test_task_manager_that_asks_before_recovery_finds_its_guest(machine):
    instance_id = str(uuid.uuid4())
    address = await machine.guests.allocate(instance_id, 5432)
    machine.next_supervisor()
    guest = await machine.guests.ensure(wish(instance_id))
    agent = guest.agent_pid
    await machine.guests.recover()
    assert (guest.record.address, guest.agent_pid) == (address, agent)


async def test_agent_nobody_recorded_is_ended(machine):
    await running(machine)
    agent = machine.guests.list()[0].agent_pid
    machine.places.records.unlink()
    old = machine.guests
    machine.next_supervisor()
    await machine.guests.recover()
    await eventually(lambda: procfs.identify(agent) is None)
    await machine.guests.stop()
    await old.stop()


async def test_removed_guest_leaves_no_process_and_no_file(machine):
    instance_id = await running(machine)
    await machine.guests.remove(instance_id)
    assert procfs.under(machine.places.guests) == []
    assert list(machine.places.guests.iterdir()) == []
    await machine.guests.remove(instance_id)


async def test_removal_goes_on_after_a_kill(machine):
    instance_id = await running(machine)
    old = machine.guests
    record = machine.places.guest(instance_id) / "guest.json"
    record.write_text(record.read_text().replace('"running"', '"removing"'))
    machine.next_supervisor()
    await machine.guests.recover()
    assert list(machine.places.guests.iterdir()) == []
    await old.stop()


async def test_removal_goes_on_when_the_caller_stops_waiting(machine):
    instance_id = await running(machine)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await machine.guests.remove(instance_id)
    await eventually(lambda: list(machine.places.guests.iterdir()) == [])


async def test_half_made_guest_directory_is_swept(machine):
    (machine.places.guests / str(uuid.uuid4())).mkdir()
    machine.next_supervisor()
    await machine.guests.recover()
    assert list(machine.places.guests.iterdir()) == []


async def test_service_answers_on_its_socket(machine, tmp_path):
    plane = ControlPlane(
        machine.places,
        accounts=OneUser(),
        runtime=machine.runtime,
        records=Records(tmp_path / "none.json"),
        backoff=Backoff(),
        rest_listen="127.0.0.1:0",
        overrides={},
        state_databases={},
        datastores={},
    )
    service = SupervisorService(machine.guests, plane)
    path = layout.Layout(tmp_path).run
    path.mkdir(exist_ok=True)
    server = build_local_server(
        path / "s.sock",
        register=lambda into: rpc_grpc.add_SupervisorServiceServicer_to_server(service, into),
    )
    await server.start()
    async with open_local_channel(path / "s.sock") as channel:
        stub = rpc_grpc.SupervisorServiceStub(channel)
        instance_id = str(uuid.uuid4())
        request = rpc.AllocateAddressRequest(instance_id=instance_id, port=5432)
        address = (await call(stub.AllocateAddress, request, timeout=10)).address
        ensured = await call(stub.EnsureGuest, wish(instance_id), timeout=10)
        assert ensured.guest.address == address
        listed = await call(stub.ListGuests, rpc.ListGuestsRequest(), timeout=10)
        assert [guest.instance_id for guest in listed.guests] == [instance_id]
        with pytest.raises(InvalidRequestError):
            await call(
                stub.AllocateAddress,
                rpc.AllocateAddressRequest(instance_id=instance_id, port=0),
                timeout=10,
            )
        await call(stub.RemoveGuest, rpc.RemoveGuestRequest(instance_id=instance_id), timeout=30)
    await server.stop(0)
    assert machine.guests.list() == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives processes users of their own")
async def test_engines_user_can_read_nothing_of_the_agent():
    folder = Path(tempfile.mkdtemp(prefix="trove-guests-"))
    folder.chmod(0o711)
    machine = Machine(folder, SystemUsers())
    machine.places.guests.chmod(0o711)
    for path in (folder / "packages").rglob("*"):
        path.chmod(0o755)
    (folder / "packages").chmod(0o755)
    machine.places.run.mkdir(mode=0o711)
    instance_id = str(uuid.uuid4())
    await machine.guests.allocate(instance_id, 5432)
    guest = await machine.guests.ensure(wish(instance_id))
    await eventually(lambda: guest.has_identity)
    root = machine.places.guest(instance_id)
    agent, engine = (Path(root / name).stat() for name in ("agent", "engine"))
    assert len({0, agent.st_uid, engine.st_uid}) == 3
    uids = {(Path("/proc") / str(process.pid)).stat().st_uid for process in procfs.under(root)}
    assert uids == {agent.st_uid, engine.st_uid}
    chain = root / "agent/identity/current/chain.pem"
    for path in (chain, root / "agent.toml", root / "guest.json"):
        words = [f"--reuid={engine.st_uid}", f"--regid={engine.st_gid}", "--clear-groups"]
        read = await asyncio.create_subprocess_exec(
            "setpriv", *words, "cat", str(path), stderr=asyncio.subprocess.DEVNULL
        )
        assert await read.wait() != 0, path
    await machine.guests.remove(instance_id)
    assert list(machine.places.guests.iterdir()) == []
    shutil.rmtree(folder)
