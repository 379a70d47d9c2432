"""A guest on this machine: directories, an engine's user, agents in process and as processes.

As root the engine runs through the launcher as `nobody`, as an ordinary user it runs as that
user: the same tests either way. Directories lie outside pytest's tmp_path, which other users
may not enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import guestagent
from guestagent.__main__ import serve
from guestagent.agent import Agent
from guestagent.config import Config
from guestagent.system import DirectSystem, LauncherSystem, System
from tests.fakes.certificates import TestAuthority
from tests.fakes.guest_gateway import FakeGateway, eventually
from trove_grpc.gen.common.v1 import engine_pb2, trust_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb
from trove_grpc.tls import IdentityDirectory

ENGINE_USER = "nobody"  # has a passwd entry, which initdb wants
PORT = 5432
VERSION = "15"
TENANT = "demo"
PASSWORD = "correct horse"


def free_loopback_address() -> str:
    """An address of 127/8 on which the engine's standard port is free."""
    while True:
        tail = [secrets.randbelow(200) + 20, secrets.randbelow(250), secrets.randbelow(250) + 1]
        address = "127." + ".".join(map(str, tail))
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((address, PORT))
            return address


@dataclass
class Machine:
    """One guest's corner of this machine."""

    root: Path
    address: str
    launcher_socket: str
    instance_id: str
    gateway: FakeGateway

    def config(self, **changes: object) -> Config:
        base = Config(
            identity=self.root / "agent/identity",
            instance_id=self.instance_id,
            tenant_id=TENANT,
            manager="postgresql",
            token_file=self.root / "agent/token",
            enrolment_endpoints=(self.gateway.enrolment_endpoint,),
            guest_endpoints=(self.gateway.guest_endpoint,),
            state_directory=self.root / "agent/state",
            data_directory=self.root / "engine/data",
            run_directory=self.root / "engine/run",
            launcher_socket=self.launcher_socket,
        )
        fast = {
            name: type(base.health_interval)(seconds=seconds)
            for name, seconds in {
                "health_interval": 0.3,
                "reconnect_backoff": 0.1,
                "reconnect_backoff_limit": 0.5,
                "engine_restart_backoff": 0.2,
                "reconnect_window": 0,
                "resend_interval": 0.5,
            }.items()
        }
        return dataclasses.replace(base, **{**fast, **changes})

    def write_config(self) -> Path:
        """As the TOML file that an agent process reads."""
        lines = []
        for item in dataclasses.fields(Config):
            value = getattr(self.config(), item.name)
            if hasattr(value, "total_seconds"):
                text = str(value.total_seconds())
            elif isinstance(value, tuple):
                text = "[" + ", ".join(f'"{each}"' for each in value) + "]"
            elif isinstance(value, int):
                text = str(value)
            else:
                text = f'"{value}"'
            lines.append(f"{item.name} = {text}\n")
        path = self.root / "agent/config.toml"
        path.write_text("".join(lines))
        return path

    @property
    def system(self) -> System:
        if self.launcher_socket:
            return LauncherSystem(Path(self.launcher_socket))
        return DirectSystem()

    def give_token(self) -> str:
        token = secrets.token_urlsafe(16)
        self.gateway.tokens[token] = (TENANT, self.instance_id)
        path = self.root / "agent/token"
        path.touch(mode=0o600)
        path.write_text(token)
        return token

    def enrol_at_once(self) -> None:
        """An identity as the issuer would have given, without the enrolment."""
        self.gateway.authority.identity_for_guest(
            TENANT, self.instance_id, self.root / "agent/identity"
        )

    def prepare_action(
        self,
        databases: tuple[str, ...] = ("shop",),
        users: tuple[engine_pb2.UserSpec, ...] = (),
    ) -> pb.PrepareAction:
        return pb.PrepareAction(
            manager="postgresql",
            version=VERSION,
            listen_addresses=[self.address],
            port=PORT,
            memory_mib=512,
            databases=[engine_pb2.DatabaseSpec(name=name) for name in databases],
            users=users,
        )

    def postmaster_pid(self) -> int:
        """Of a postmaster that runs; 0 when none does."""
        cluster = self.root / "engine/data/pgdata"
        with contextlib.suppress(OSError):
            pid = int((cluster / "postmaster.pid").read_text().split("\n")[0])
            if (Path("/proc") / str(pid) / "cwd").readlink() == cluster:
                return pid
        return 0

    def kill_postmaster(self) -> None:
        pid = self.postmaster_pid()
        assert pid > 0  # 0 would be our own process group
        os.kill(pid, signal.SIGKILL)

    def psql(
        self, query: str, *, user: str, database: str, mode: str = "verify-full", **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """As a tenant connects: from outside, by address, with the database root."""
        root = self.root / "root.crt"
        kind = trust_pb2.AUTHORITY_KIND_DATABASE_ROOT
        root.write_bytes(self.gateway.authority.signers[kind].pem)
        environment = {
            "PATH": os.environ["PATH"],
            "PGHOST": self.address,
            "PGPORT": str(PORT),
            "PGUSER": user,
            "PGDATABASE": database,
            "PGPASSWORD": PASSWORD,
            "PGSSLMODE": mode,
            "PGSSLROOTCERT": str(root),
            "PGCONNECT_TIMEOUT": "10",
            **changes,
        }
        return subprocess.run(
            [f"/usr/lib/postgresql/{VERSION}/bin/psql", "-X", "-A", "-t", "-w", "-f", "-"],
            input=query,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextlib.asynccontextmanager
    async def agent(self, **changes: object) -> AsyncIterator[Agent]:
        """An agent in this process."""
        stop = asyncio.Event()
        running: list[Agent] = []
        task = asyncio.create_task(serve(self.config(**changes), stop, started=running.append))
        try:
            await eventually(lambda: running or task.done())
            if task.done():
                await task
            yield running[0]
        finally:
            stop.set()
            await task

    @contextlib.contextmanager
    def agent_process(self) -> Iterator[subprocess.Popen[bytes]]:
        """An agent as the process it is in production."""
        with (self.root / "agent.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "guestagent", "--config", str(self.write_config())],
                cwd=self.root / "agent",
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(_source())},
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def log(self) -> str:
        path = self.root / "agent.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


@pytest.fixture
async def gateway(authority: TestAuthority, tmp_path: Path) -> AsyncIterator[FakeGateway]:
    async with FakeGateway(authority, tmp_path / "gateway").serving() as serving:
        yield serving


@pytest.fixture
def machine(gateway: FakeGateway, authority: TestAuthority) -> Iterator[Machine]:
    root = Path(tempfile.mkdtemp(prefix="tg-", dir="/tmp"))
    root.chmod(0o711)
    (root / "agent").mkdir(mode=0o700)
    (root / "engine").mkdir(mode=0o711)
    (root / "engine/data").mkdir(mode=0o700)
    (root / "engine/run").mkdir(mode=0o711)
    address = free_loopback_address()
    gateway.engine_addresses = (address,)
    directory = IdentityDirectory(root / "agent/identity")
    directory.store_bundle(authority.bundle())
    launcher = None
    launcher_socket = ""
    if os.geteuid() == 0:
        launcher_socket = str(root / "engine/run/launcher")
        launcher = _start_launcher(root, launcher_socket)
    machine = Machine(root, address, launcher_socket, str(uuid.uuid4()), gateway)
    try:
        yield machine
    finally:
        _end_engine(root)
        if launcher is not None:
            launcher.terminate()
            launcher.wait()
        shutil.rmtree(root)


def _start_launcher(root: Path, launcher_socket: str) -> subprocess.Popen[bytes]:
    """As the supervisor starts it: with a copy of the code that the engine's user can read."""
    code = root / "code/guestagent"
    code.mkdir(parents=True)
    for name in ("__init__.py", "launcher.py", "system.py"):
        shutil.copy(_source() / "guestagent" / name, code / name)
    for path in (root / "code", code):
        path.chmod(0o755)
    for path in code.iterdir():
        path.chmod(0o644)
    user = pwd.getpwnam(ENGINE_USER)
    for path in (root / "engine", root / "engine/data", root / "engine/run"):
        os.chown(path, user.pw_uid, user.pw_gid)
    process = subprocess.Popen(
        [
            *as_user(ENGINE_USER),
            os.path.realpath(sys.executable),
            *("-m", "guestagent.launcher", "--socket", launcher_socket),
            *("--agent-uid", str(os.geteuid())),
        ],
        cwd=root / "engine",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(root / "code")},
    )
    for _ in range(500):
        if Path(launcher_socket).exists():
            return process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
            raise AssertionError("the launcher ended")
    raise AssertionError("the launcher did not start")


def as_user(name: str) -> list[str]:
    """Prefix of a command that is to run as another user.

    Not Popen's `user`: that makes Python fork, whose handlers in gRPC crash now and then.
    """
    user = pwd.getpwnam(name)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def run_as(name: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*as_user(name), *argv], capture_output=True, text=True, timeout=60, check=False
    )


def _end_engine(root: Path) -> None:
    """Kill what the test left running inside `root`."""
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            inside = str((path / "cwd").readlink()).startswith(f"{root}/engine/data/")
            if path.name.isdigit() and inside:
                os.kill(int(path.name), signal.SIGKILL)


def _source() -> Path:
    return Path(guestagent.__file__).parent.parent
