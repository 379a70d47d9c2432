"""A real MariaDB under the agent, seen from outside with the mariadb client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.rest.passwords import mysql_native_password_verifier
from guestagent.engines import EngineSpec, Process
from guestagent.engines.catalogue import build_engine
from tests.fakes.engine import FakeDatabaseAuthority
from tests.fakes.guest_gateway import FakeGateway, eventually
from tests.integration.guestagent.conftest import ENGINE_USER, PASSWORD, Machine, run_as
from trove_grpc.errors import UnsupportedError
from trove_grpc.gen.common.v1 import engine_pb2, trust_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb

PORT = 3306
VERSION = "10.11"
WEIRD_USER = 'o\'Neil "the" \\Käufer`; DROP -- #'
WEIRD_DATABASE = 'a=b `shop` "größe" \' % _ \\q;'


def user(name: str, *databases: str, host: str = "") -> engine_pb2.UserSpec:
    return engine_pb2.UserSpec(
        name=name,
        host=host,
        databases=databases,
        verifier=mysql_native_password_verifier(PASSWORD),
    )


class MariaMachine(Machine):
    """A guest whose engine is MariaDB."""

    def config(self, **changes: object):
        return super().config(**{"manager": "mariadb", **changes})

    def action(
        self, databases: tuple[str, ...] = ("shop",), users: tuple[engine_pb2.UserSpec, ...] = ()
    ) -> pb.PrepareAction:
        action = self.prepare_action(databases, users)
        action.manager, action.version, action.port = "mariadb", VERSION, PORT
        return action

    def server_pid(self) -> int:
        """Of the server that runs; 0 when none does."""
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (path / "cwd").readlink() == self.root / "engine/data/mysql":
                    return int(path.name)
        return 0

    def kill(self) -> None:
        pid = self.server_pid()
        assert pid > 0  # 0 would be our own process group
        os.kill(pid, signal.SIGKILL)

    def sql(
        self, query: str, *, name: str = "ann", database: str = "shop", **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """As a tenant connects: from outside, by address, with the database root."""
        root = self.root / "root.crt"
        kind = trust_pb2.AUTHORITY_KIND_DATABASE_ROOT
        root.write_bytes(self.gateway.authority.signers[kind].pem)
        options = self.root / f"{uuid.uuid4()}.cnf"  # clients may come at once
        options.touch(mode=0o600)
        password = changes.pop("password", PASSWORD)
        options.write_text(f'[client]\npassword = "{password}"\n')
        tls = changes.pop("tls", f"--ssl-verify-server-cert --ssl-ca={root}").split()
        host = changes.pop("host", self.address)
        return subprocess.run(
            [
                *("mariadb", f"--defaults-file={options}", f"--host={host}", "--protocol=tcp"),
                *(f"--port={PORT}", f"--user={name}", "--batch", "--skip-column-names", *tls),
                "--raw",
                *([database] if database else []),
            ],
            input=query,
            env={"PATH": os.environ["PATH"], "HOME": str(self.root), "LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def admin(self, query: str) -> str:
        """As the agent connects."""
        done = subprocess.run(
            [
                "mariadb",
                f"--defaults-file={self.root}/engine/data/admin.cnf",
                f"--execute={query}",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def guest(machine: Machine) -> MariaMachine:
    return MariaMachine(**vars(machine))


@pytest.fixture
async def prepared(guest: MariaMachine, gateway: FakeGateway):
    """An agent in this process whose engine has databases and a user."""
    guest.enrol_at_once()
    async with guest.agent() as agent:
        await gateway.connected()
        action = guest.action(("shop", "sh_p", "other"), (user("ann", "shop", "sh_p"),))
        result = await gateway.command("prepare-1", prepare=action)
        assert result.error_reason == "", result.error_message
        yield agent, result


async def test_prepared_engine_answers_its_client_with_full_verification(
    prepared, guest, gateway: FakeGateway
):
    _, result = prepared
    assert result.prepare.engine_version.startswith("10.11.")
    assert result.prepare.observation.state == engine_pb2.ENGINE_STATE_HEALTHY
    assert result.prepare.observation.start_count == 1
    assert result.prepare.observation.volume.used_bytes > 10_000_000
    assert gateway.states() == ["PREPARING", "HEALTHY"]
    query = (
        "CREATE TABLE t (a int); INSERT INTO t VALUES (7); SELECT a FROM t; "
        "SELECT variable_value LIKE 'TLS%' FROM information_schema.session_status "
        "WHERE variable_name = 'Ssl_cipher';"
    )
    done = guest.sql(query)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["7", "1"]


@pytest.mark.usefixtures("prepared")
async def test_nobody_gets_in_without_tls_password_or_grant(guest):
    assert "Access denied" in guest.sql("SELECT 1", tls="--skip-ssl").stderr
    guest.admin("SET GLOBAL require_secure_transport = OFF")
    assert guest.sql("SELECT 1", tls="--skip-ssl").stdout == "1\n"
    guest.admin("SET GLOBAL require_secure_transport = ON")
    wrong = guest.sql("SELECT 1", password="guess")
    assert "Access denied" in wrong.stderr
    # "_" in a granted database is itself, not any character.
    for foreign in ("other", "shxp", "mysql"):
        assert "Access denied" in guest.sql("SELECT 1", database=foreign).stderr, foreign
    assert guest.sql("SELECT 1", database="sh_p").stdout == "1\n"
    visible = guest.sql("SHOW DATABASES", database="").stdout.split()
    assert visible == ["information_schema", "sh_p", "shop"]
    for name in ("root", "os_admin", "mariadb.sys", "", ENGINE_USER):
        for password in ("", PASSWORD):
            refused = guest.sql("SELECT 1", name=name, database="", password=password)
            assert "Access denied" in refused.stderr, name


async def test_certificate_for_another_address_is_not_believed(guest, gateway: FakeGateway):
    guest.enrol_at_once()
    second = guest.address.rpartition(".")[0] + ".254"
    async with guest.agent():
        await gateway.connected()
        action = guest.action(users=(user("ann", "shop"),))
        action.listen_addresses.append(second)
        result = await gateway.command("p", prepare=action)
        assert result.error_reason == "", result.error_message
        assert guest.sql("SELECT 1").stdout == "1\n"
        refused = guest.sql("SELECT 1", host=second)
        assert refused.returncode
        assert "certificate" in refused.stderr.lower()
        unknown = guest.sql(
            "SELECT 1", tls="--ssl-verify-server-cert --ssl-ca=/etc/ssl/certs/ca-certificates.crt"
        )
        assert unknown.returncode
        assert "certificate" in unknown.stderr.lower()


@pytest.mark.usefixtures("prepared")
async def test_engine_comes_back_after_kill_9_with_its_data(guest, gateway: FakeGateway):
    guest.sql("CREATE TABLE kept AS SELECT 42 AS a")
    guest.kill()
    await eventually(lambda: gateway.states()[-2:] == ["CRASHED", "HEALTHY"])
    observation = await gateway.state("HEALTHY")
    await eventually(lambda: gateway.heartbeats[-1].observation.start_count == 2)
    assert observation.reason == ""
    assert guest.sql("SELECT a FROM kept").stdout == "42\n"


@pytest.mark.usefixtures("prepared")
async def test_agent_gives_up_on_an_engine_that_cannot_start_and_restart_forgives(
    guest, gateway: FakeGateway
):
    options = guest.root / "engine/data/mariadb.cnf"
    good = options.read_text()
    options.write_text(good + "\nno_such_option = 1\n")
    guest.kill()
    observation = await gateway.state("FAILED", within=60)
    assert "no_such_option" in observation.reason.replace("-", "_")
    assert "restart it" in observation.reason
    options.write_text(good)
    result = await gateway.command("again", restart=pb.RestartAction())
    assert result.error_reason == "", result.error_message
    assert result.engine.observation.state == engine_pb2.ENGINE_STATE_HEALTHY


async def test_stop_start_and_restart_keep_data_users_and_the_wish(guest, gateway: FakeGateway):
    guest.enrol_at_once()
    async with guest.agent():
        await gateway.connected()
        action = guest.action(users=(user("ann", "shop"),))
        assert (await gateway.command("p", prepare=action)).error_reason == ""
        guest.sql("CREATE TABLE kept AS SELECT 42 AS a")
        stopped = await gateway.command("s", stop=pb.StopAction())
        assert stopped.engine.observation.state == engine_pb2.ENGINE_STATE_STOPPED
        assert guest.server_pid() == 0
    async with guest.agent():
        await gateway.connected(more_than=1)
        await gateway.state("STOPPED")
        assert guest.server_pid() == 0
        started = await gateway.command("s2", start=pb.StartAction())
        assert started.engine.observation.state == engine_pb2.ENGINE_STATE_HEALTHY
        before = guest.server_pid()
        restarted = await gateway.command("r", restart=pb.RestartAction())
        assert restarted.engine.observation.start_count == 3
        assert guest.server_pid() not in (0, before)
        assert guest.sql("SELECT a FROM kept").stdout == "42\n"


async def test_users_are_limited_to_their_hosts(guest, gateway: FakeGateway):
    guest.enrol_at_once()
    network = guest.address.rpartition(".")[0]
    users = (
        user("here", "shop", host=f"{network}.%"),
        user("mask", "shop", host="127.0.0.0/255.0.0.0"),
        user("there", "shop", host="10.0.0.7"),
        user("ann", "shop", host="10.0.0.7"),
        user("ann", "shop"),
    )
    async with guest.agent():
        await gateway.connected()
        result = await gateway.command("p", prepare=guest.action(users=users))
        assert result.error_reason == "", result.error_message
        for name in ("mask", "ann"):
            assert guest.sql("SELECT 1", name=name).stdout == "1\n", name
        assert "Access denied" in guest.sql("SELECT 1", name="there").stderr


async def test_names_with_quotes_spaces_and_unicode_work(guest, gateway: FakeGateway):
    guest.enrol_at_once()
    async with guest.agent():
        await gateway.connected()
        users = (user(WEIRD_USER, WEIRD_DATABASE), user("plain"))
        action = guest.action((WEIRD_DATABASE,), users)
        result = await gateway.command("p", prepare=action)
        assert result.error_reason == "", result.error_message
        done = guest.sql(
            "CREATE TABLE t (a int); SELECT USER(), DATABASE()",
            name=WEIRD_USER,
            database=WEIRD_DATABASE,
        )
        assert done.returncode == 0, done.stderr
        name, database = done.stdout.strip("\n").split("\t")
        assert name.rpartition("@")[0] == WEIRD_USER
        assert database == WEIRD_DATABASE
        refused = guest.sql("SELECT 1", name="plain", database=WEIRD_DATABASE)
        assert "Access denied" in refused.stderr


async def test_character_sets_and_collations_are_the_databases_own(guest, gateway: FakeGateway):
    guest.enrol_at_once()
    async with guest.agent():
        await gateway.connected()
        action = guest.action((), (user("ann", "old", "new"),))
        action.databases.add(name="old", character_set="latin1", collation="latin1_german2_ci")
        action.databases.add(name="new")
        result = await gateway.command("p", prepare=action)
        assert result.error_reason == "", result.error_message
        query = "SELECT @@character_set_database, @@collation_database"
        assert guest.sql(query, database="old").stdout.split() == ["latin1", "latin1_german2_ci"]
        assert guest.sql(query, database="new").stdout.split()[0] == "utf8mb4"


async def test_bad_names_and_verifiers_are_refused_before_anything_is_touched(
    guest, gateway: FakeGateway
):
    guest.enrol_at_once()
    async with guest.agent():
        await gateway.connected()
        bad = [
            ((), (engine_pb2.UserSpec(name="eve", verifier="plain password"),)),
            ((), (user("os_admin"),)),
            ((), (user("Root"),)),
            ((), (user("x" * 81),)),
            ((), (user("🛒"),)),
            ((), (user("h", host="h\0"),)),
            (("x" * 65,), ()),
            (("Mysql",), ()),
            (("ends ",), ()),
        ]
        for number, (databases, users) in enumerate(bad):
            result = await gateway.command(f"bad-{number}", prepare=guest.action(databases, users))
            assert result.error_reason == "INVALID_REQUEST", (databases, users)
            assert "plain password" not in result.error_message
        missing = guest.action()
        missing.version = "11.4"
        refused = await gateway.command("version", prepare=missing)
        assert refused.error_reason == "UNSUPPORTED"
        assert "installed: 10.11." in refused.error_message
    assert not (guest.root / "engine/data/mysql").exists()


async def test_refusal_by_the_server_shows_no_verifier(guest, gateway: FakeGateway):
    guest.enrol_at_once()
    async with guest.agent():
        await gateway.connected()
        action = guest.action((), (user("ann", "no_such\x01"),))
        action.databases.add(name="shop", character_set="no_such_set")
        result = await gateway.command("p", prepare=action)
        assert result.error_reason == "ENGINE_COMMAND_FAILED"
        assert "no_such_set" in result.error_message
        assert mysql_native_password_verifier(PASSWORD) not in result.error_message


async def test_agent_killed_in_the_middle_of_prepare_finishes_it_when_repeated(
    guest, gateway: FakeGateway
):
    guest.give_token()
    action = guest.action(("shop",), (user("ann", "shop"),))
    home = guest.root / "engine/data"
    moments = [
        (home / "mysql.new/ibdata1").exists,
        (home / "mysql/ibdata1").exists,
        guest.server_pid,
    ]
    for number, moment in enumerate(moments):
        with guest.agent_process() as process:
            await gateway.connected(more_than=number)
            gateway.send_command("prepare-1", prepare=action)
            await eventually(moment, within=60)
            process.kill()
            process.wait()
        await eventually(lambda: not gateway.open)
        assert not gateway.results_of("prepare-1")
    with guest.agent_process():
        await gateway.connected(more_than=len(moments))
        result = await gateway.command("prepare-1", prepare=action)
        assert result.error_reason == "", result.error_message + guest.log()
        assert guest.sql("SELECT 1").stdout == "1\n"
    for log in (guest.log(), (home / "mariadb.log").read_text()):
        assert mysql_native_password_verifier(PASSWORD)[1:] not in log


async def test_agent_process_leaves_the_engine_adopts_it_and_stops_it_when_told(
    guest, gateway: FakeGateway
):
    guest.give_token()
    with guest.agent_process() as process:
        await gateway.connected()
        assert not (await gateway.command("p", prepare=guest.action())).error_reason
        server = guest.server_pid()
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: process.poll() is not None)
        assert process.returncode == 0
        assert guest.server_pid() == server
    gateway.heartbeats.clear()
    with guest.agent_process() as process:
        await gateway.connected(more_than=1)
        observation = await gateway.state("HEALTHY")
        assert observation.start_count == 1
        assert guest.server_pid() == server
        process.send_signal(signal.SIGUSR1)
        await eventually(lambda: process.poll() is not None)
        assert process.returncode == 0
        assert guest.server_pid() == 0
    gateway.heartbeats.clear()
    with guest.agent_process():
        await gateway.connected(more_than=2)
        observation = await gateway.state("HEALTHY")
        assert observation.start_count == 2


@pytest.fixture
def engine(guest: MariaMachine):
    return build_engine(guest.config())


@pytest.fixture
def spec(guest: MariaMachine) -> EngineSpec:
    return EngineSpec(
        version=VERSION, listen_addresses=(guest.address,), port=PORT, memory_mib=256
    )


@pytest.fixture
def issue(guest: MariaMachine, authority):
    return FakeDatabaseAuthority(authority, [guest.address])


async def test_second_start_finds_the_lock_and_starts_no_second_server(engine, spec, issue, guest):
    await engine.create(spec, issue)
    await asyncio.gather(engine.start(spec), engine.start(spec))
    first = guest.server_pid()
    await engine.start(spec)
    assert guest.server_pid() == first
    assert (await engine.probe(spec)).process is Process.ANSWERING


async def test_frozen_server_is_blocked_and_a_thawed_one_answers(engine, spec, issue, guest):
    await engine.create(spec, issue)
    await engine.start(spec)
    os.kill(guest.server_pid(), signal.SIGSTOP)
    try:
        found = await engine.probe(spec)
        assert found.process is Process.BLOCKED
        assert "does not answer" in found.reason
    finally:
        os.kill(guest.server_pid(), signal.SIGCONT)
    assert (await engine.probe(spec)).process is Process.ANSWERING


async def test_server_full_of_clients_still_answers_its_administrator(engine, spec, issue, guest):
    await engine.create(spec, issue)
    await engine.start(spec)
    await engine.apply(spec, [engine_pb2.DatabaseSpec(name="shop")], [user("ann", "shop")])
    guest.admin("SET GLOBAL max_connections = 10")

    # Each waits inside for the one that got the lock and sleeps.
    query = "SELECT GET_LOCK('all in', 60); SELECT SLEEP(60)"
    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(guest.sql, query) for _ in range(16)]
        try:
            # The first that ends was refused: every place is taken.
            await eventually(lambda: any(each.done() for each in waiting))
            # A client about to be refused may sit in the administrator's place for a moment.
            async with asyncio.timeout(30):
                while (await engine.probe(spec)).process is not Process.ANSWERING:
                    assert any(not each.done() for each in waiting)
            # In whatever words: a refusal in mid-handshake is a TLS error to the client.
            refused = [each.result() for each in waiting if each.done()]
        finally:
            await engine.stop(spec)
    assert refused
    assert all(each.returncode for each in refused)


async def test_new_certificate_is_served_without_a_restart(engine, spec, issue, guest):
    await engine.create(spec, issue)
    await engine.start(spec)
    await engine.apply(spec, [engine_pb2.DatabaseSpec(name="shop")], [user("ann", "shop")])
    before = guest.server_pid()
    # As an agent leaves it that was killed between the new certificate and telling the server.
    (guest.root / "engine/data/server.pem").unlink()
    await engine.create(spec, issue)
    assert (guest.root / "engine/data/server.key.new").exists()
    await engine.tend(spec, issue)
    assert not (guest.root / "engine/data/server.key.new").exists()
    assert guest.sql("SELECT 1").stdout == "1\n"
    assert guest.server_pid() == before


async def test_guest_without_the_programs_says_so(guest, spec):
    with pytest.raises(UnsupportedError, match="not installed on this guest"):
        build_engine(guest.config(mariadb_prefix=guest.root)).check(spec, [], [])


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="two users need root; run the tests as root")
@pytest.mark.usefixtures("prepared")
async def test_engine_runs_as_its_user_who_cannot_read_the_agents_files(guest):
    engine = pwd.getpwnam(ENGINE_USER)
    assert Path(f"/proc/{guest.server_pid()}").stat().st_uid == engine.pw_uid
    done = run_as(ENGINE_USER, "cat", str(guest.root / "agent/identity/current/key.pem"))
    assert "Permission denied" in done.stderr
    for name in ("admin.cnf", "server.pem"):
        assert (guest.root / "engine/data" / name).stat().st_mode & 0o077 == 0
