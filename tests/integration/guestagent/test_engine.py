"""A real PostgreSQL under the agent, seen from outside with psql."""

from __future__ import annotations

import os
import pwd
import signal
import sys
from pathlib import Path

import pytest

from tests.fakes.guest_gateway import FakeGateway, eventually, public_key
from tests.fakes.scram import verifier
from tests.integration.guestagent.conftest import ENGINE_USER, PASSWORD, run_as
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb

WEIRD_USER = 'o\'Neil "the" \\Käufer🛒; DROP'
WEIRD_DATABASE = "a=b 'shop' \"größe\"\n:x \\q"


def user(name: str, *databases: str) -> engine_pb2.UserSpec:
    return engine_pb2.UserSpec(name=name, databases=databases, verifier=verifier(PASSWORD))


@pytest.fixture
async def prepared(machine, gateway: FakeGateway):
    """An agent in this process whose engine has a database and a user."""
    machine.enrol_at_once()
    async with machine.agent() as agent:
        await gateway.connected()
        action = machine.prepare_action(("shop", "other"), (user("ann", "shop"),))
        result = await gateway.command("prepare-1", prepare=action)
        assert result.error_reason == "", result.error_message
        yield agent, result


async def test_prepared_engine_answers_psql_with_full_verification(prepared, machine, gateway):
    _, result = prepared
    assert result.prepare.engine_version.startswith("15.")
    assert result.prepare.observation.state == engine_pb2.ENGINE_STATE_HEALTHY
    assert result.prepare.observation.start_count == 1
    assert result.prepare.observation.volume.used_bytes > 10_000_000
    assert gateway.states() == ["PREPARING", "HEALTHY"]
    query = "CREATE TABLE t (a int); INSERT INTO t VALUES (7); SELECT a FROM t; SHOW ssl;"
    done = machine.psql(query, user="ann", database="shop")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["CREATE", "TABLE", "INSERT", "0", "1", "7", "on"]


@pytest.mark.usefixtures("prepared")
async def test_nobody_gets_in_without_tls_password_or_grant(machine):
    plain = machine.psql("SELECT 1", user="ann", database="shop", mode="disable")
    assert "no encryption" in plain.stderr
    assert "no pg_hba.conf entry" in plain.stderr
    wrong = machine.psql("SELECT 1", user="ann", database="shop", PGPASSWORD="guess")
    assert "password authentication failed" in wrong.stderr
    foreign = machine.psql("SELECT 1", user="ann", database="other")
    assert "permission denied for database" in foreign.stderr
    system = machine.psql("SELECT 1", user="ann", database="postgres")
    assert "permission denied for database" in system.stderr
    admin = machine.psql("SELECT 1", user="os_admin", database="postgres")
    assert "pg_hba.conf rejects connection" in admin.stderr
    elsewhere = machine.psql(
        "SELECT 1", user="ann", database="shop", PGHOST="localhost", PGHOSTADDR=machine.address
    )
    assert "does not match host name" in elsewhere.stderr


@pytest.mark.usefixtures("prepared")
async def test_engine_comes_back_after_kill_9(machine, gateway: FakeGateway):
    machine.psql("CREATE TABLE kept AS SELECT 42 AS a", user="ann", database="shop")
    machine.kill_postmaster()
    await eventually(lambda: gateway.states()[-2:] == ["CRASHED", "HEALTHY"])
    observation = await gateway.state("HEALTHY")
    await eventually(lambda: gateway.heartbeats[-1].observation.start_count == 2)
    assert observation.reason == ""
    done = machine.psql("SELECT a FROM kept", user="ann", database="shop")
    assert done.stdout.split() == ["42"], done.stderr


@pytest.mark.usefixtures("prepared")
async def test_agent_gives_up_on_an_engine_that_cannot_start_and_restart_forgives(
    machine, gateway: FakeGateway
):
    conf = machine.root / "engine/data/pgdata/postgresql.conf"
    good = conf.read_text()
    conf.write_text(good + "\nport = nonsense\n")
    machine.kill_postmaster()
    observation = await gateway.state("FAILED", within=60)
    assert "nonsense" in observation.reason
    assert "restart it" in observation.reason
    conf.write_text(good)
    result = await gateway.command("again", restart=pb.RestartAction())
    assert result.error_reason == ""
    assert result.engine.observation.state == engine_pb2.ENGINE_STATE_HEALTHY


async def test_same_command_id_is_carried_out_once(prepared, machine, gateway: FakeGateway):
    action = machine.prepare_action(("later",))
    repeated = await gateway.command("prepare-1", prepare=action)
    assert repeated == prepared[1]
    before = machine.postmaster_pid()
    first = await gateway.command("restart-1", restart=pb.RestartAction())
    assert first.error_reason == ""
    after = machine.postmaster_pid()
    assert after != before
    gateway.send_command("restart-1", restart=pb.RestartAction())
    gateway.send_command("restart-1", restart=pb.RestartAction())
    await eventually(lambda: len(gateway.results_of("restart-1")) >= 2)
    assert all(result == first for result in gateway.results_of("restart-1"))
    assert machine.postmaster_pid() == after


async def test_stop_keeps_it_stopped_across_agents_and_start_brings_it_back(
    machine, gateway: FakeGateway
):
    machine.enrol_at_once()
    async with machine.agent():
        await gateway.connected()
        assert not (await gateway.command("p", prepare=machine.prepare_action())).error_reason
        stopped = await gateway.command("s", stop=pb.StopAction())
        assert stopped.engine.observation.state == engine_pb2.ENGINE_STATE_STOPPED
        assert machine.postmaster_pid() == 0
    async with machine.agent():
        await gateway.connected(more_than=1)
        await gateway.state("STOPPED")
        assert machine.postmaster_pid() == 0
        started = await gateway.command("s2", start=pb.StartAction())
        assert started.engine.observation.state == engine_pb2.ENGINE_STATE_HEALTHY
        assert started.engine.observation.start_count == 2


async def test_names_with_quotes_spaces_newlines_and_unicode_work(machine, gateway: FakeGateway):
    machine.enrol_at_once()
    async with machine.agent():
        await gateway.connected()
        users = (user(WEIRD_USER, WEIRD_DATABASE), user("plain"))
        action = machine.prepare_action((WEIRD_DATABASE,), users)
        result = await gateway.command("p", prepare=action)
        assert result.error_reason == "", result.error_message
        done = machine.psql(
            "CREATE TABLE t (); SELECT current_user, current_database()",
            user=WEIRD_USER,
            database=WEIRD_DATABASE,
        )
        assert done.stdout.strip().endswith(f"{WEIRD_USER}|{WEIRD_DATABASE}"), done.stderr


async def test_bad_names_and_verifiers_are_refused_before_anything_is_touched(
    machine, gateway: FakeGateway
):
    machine.enrol_at_once()
    async with machine.agent():
        await gateway.connected()
        bad = [
            ((), (engine_pb2.UserSpec(name="eve", verifier="plain password"),)),
            ((), (user("os_admin"),)),
            ((), (user("pg_monitor"),)),
            ((), (engine_pb2.UserSpec(name="h", host="10.0.0.1", verifier=verifier("x")),)),
            (("x" * 64,), ()),
            (("template1",), ()),
        ]
        for number, (databases, users) in enumerate(bad):
            action = machine.prepare_action(databases, users)
            result = await gateway.command(f"bad-{number}", prepare=action)
            assert result.error_reason == "INVALID_REQUEST", (databases, users)
            assert "plain password" not in result.error_message
    assert not (machine.root / "engine/data/pgdata").exists()


async def test_prepare_waits_for_no_issuer_and_its_repeat_succeeds(machine, gateway: FakeGateway):
    machine.enrol_at_once()
    gateway.refuses_engine_certificates = True
    async with machine.agent():
        await gateway.connected()
        action = machine.prepare_action()
        assert (await gateway.command("p", prepare=action)).error_reason == "UNAVAILABLE"
        gateway.refuses_engine_certificates = False
        gateway.lose["engine"] = 1
        assert (await gateway.command("p", prepare=action)).error_reason == ""
    assert len(gateway.engine_requests) > 1
    assert len({public_key(request) for request in gateway.engine_requests}) == 1


async def test_agent_killed_in_the_middle_of_prepare_finishes_it_when_repeated(
    machine, gateway: FakeGateway
):
    machine.give_token()
    action = machine.prepare_action(("shop",), (user("ann", "shop"),))
    cluster = machine.root / "engine/data"
    moments = [
        (cluster / "pgdata.new/base").exists,
        (cluster / "pgdata/PG_VERSION").exists,
        (cluster / "pgdata/postmaster.pid").exists,
    ]
    for number, moment in enumerate(moments):
        with machine.agent_process() as process:
            await gateway.connected(more_than=number)
            gateway.send_command("prepare-1", prepare=action)
            await eventually(moment, within=60)
            process.kill()
            process.wait()
        await eventually(lambda: not gateway.open)
        assert not gateway.results_of("prepare-1")
    with machine.agent_process():
        await gateway.connected(more_than=len(moments))
        result = await gateway.command("prepare-1", prepare=action)
        assert result.error_reason == "", result.error_message + machine.log()
        done = machine.psql("SELECT 1", user="ann", database="shop")
        assert done.stdout.strip() == "1", done.stderr
    assert verifier(PASSWORD).rpartition(":")[2] not in machine.log()


async def test_agent_process_leaves_the_engine_adopts_it_and_stops_it_when_told(
    machine, gateway: FakeGateway
):
    machine.give_token()
    with machine.agent_process() as process:
        await gateway.connected()
        assert not (await gateway.command("p", prepare=machine.prepare_action())).error_reason
        postmaster = machine.postmaster_pid()
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: process.poll() is not None)
        assert process.returncode == 0
        assert machine.postmaster_pid() == postmaster
    gateway.heartbeats.clear()
    with machine.agent_process() as process:
        await gateway.connected(more_than=1)
        observation = await gateway.state("HEALTHY")
        assert observation.start_count == 1
        assert machine.postmaster_pid() == postmaster
        process.send_signal(signal.SIGUSR1)
        await eventually(lambda: process.poll() is not None)
        assert process.returncode == 0
        assert machine.postmaster_pid() == 0
    gateway.heartbeats.clear()
    with machine.agent_process():
        await gateway.connected(more_than=2)
        observation = await gateway.state("HEALTHY")
        assert observation.start_count == 2


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="two users need root; run the tests as root")
@pytest.mark.usefixtures("prepared")
async def test_engine_user_cannot_read_the_agents_files(machine):
    engine = pwd.getpwnam(ENGINE_USER)
    for name in ("identity/current/key.pem", "identity", "state/engine.json"):
        done = run_as(ENGINE_USER, "ls", "-la", str(machine.root / "agent" / name))
        assert "Permission denied" in done.stderr, name
    postmaster = machine.postmaster_pid()
    assert Path(f"/proc/{postmaster}").stat().st_uid == engine.pw_uid


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="two users need root; run the tests as root")
async def test_launcher_serves_the_agent_alone(machine):
    script = (
        "import socket,sys\n"
        "s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "print(s.recv(4096))\n"
    )
    python = os.path.realpath(sys.executable)
    done = run_as("daemon", python, "-c", script, machine.launcher_socket)
    assert "only the agent may ask" in done.stdout, done.stderr
