"""A real Redis under the agent's manager, seen from outside with redis-cli."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from guestagent.engines import EngineSpec, Process
from guestagent.engines.redis import Redis
from tests.fakes.engine import FakeDatabaseAuthority
from tests.integration.guestagent.conftest import PASSWORD, Machine
from tests.integration.guestagent.redis_guest import (
    REDIS_PORT,
    REDIS_VERSION,
    RedisMachine,
    user,
)
from trove_grpc.errors import ConflictError, InvalidRequestError, UnsupportedError
from trove_grpc.gen.common.v1 import engine_pb2

PROGRAMS = Path("/usr/bin")


def from_nowhere(guest: RedisMachine, *options: str) -> str:
    """Without certificates and credentials."""
    done = subprocess.run(
        ["redis-cli", *options, "-h", guest.address, "-p", str(REDIS_PORT), "PING"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


async def until_gone(engine: Redis, spec: EngineSpec) -> None:
    """The kernel lets go of a killed process's lock a moment after the rest of it."""
    async with asyncio.timeout(20):
        while (await engine.probe(spec)).process is not Process.GONE:
            pass


@pytest.fixture
def guest(machine: Machine) -> RedisMachine:
    return RedisMachine(**vars(machine))


@pytest.fixture
def engine(guest: RedisMachine) -> Redis:
    config = guest.config()
    return Redis(
        guest.system,
        data_directory=config.data_directory,
        run_directory=config.run_directory,
        programs_directory=PROGRAMS,
    )


@pytest.fixture
def spec(guest: RedisMachine) -> EngineSpec:
    return EngineSpec(
        version=REDIS_VERSION,
        listen_addresses=(guest.address,),
        port=REDIS_PORT,
        memory_mib=512,
    )


@pytest.fixture
def issue(guest: RedisMachine, authority):
    return FakeDatabaseAuthority(authority, [guest.address])


@pytest.fixture
async def running(engine, spec, issue):
    await engine.create(spec, issue)
    await engine.start(spec)
    await engine.apply(spec, [], [user("ada")])
    return engine


async def test_engine_lives_through_its_whole_life_twice_over(engine, spec, issue):
    assert (await engine.probe(spec)).process is Process.GONE
    for _ in range(2):
        await engine.create(spec, issue)
        for _ in range(2):
            await engine.start(spec)
        found = await engine.probe(spec)
        assert found.process is Process.ANSWERING
        assert found.version.startswith("7.0.")
        for _ in range(2):
            await engine.apply(spec, [], [user("ada")])
        usage = await engine.tend(spec, issue)
        assert 0 < usage.used_bytes < usage.total_bytes
        for _ in range(2):
            await engine.stop(spec)
        assert (await engine.probe(spec)).process is Process.GONE


@pytest.mark.usefixtures("running")
async def test_user_works_with_all_keys_and_channels_and_manages_nothing(guest):
    assert guest.redis_cli("SET", "greeting", "hello") == "OK"
    assert guest.redis_cli("GET", "greeting") == "hello"
    assert guest.redis_cli("KEYS", "*") == "greeting"
    assert guest.redis_cli("PUBLISH", "news", "x") == "0"
    assert guest.redis_cli("EVAL", "return redis.call('GET', KEYS[1])", "1", "greeting") == "hello"
    assert "redis_version" in guest.redis_cli("INFO", "server")
    for command in (
        ["CONFIG", "GET", "*"],
        ["ACL", "LIST"],
        ["SHUTDOWN", "NOSAVE"],
        ["DEBUG", "OBJECT", "greeting"],
        ["MODULE", "LIST"],
        ["REPLICAOF", "127.0.0.1", "1"],
        ["MIGRATE", "127.0.0.1", "1", "greeting", "0", "1"],
        ["MONITOR"],
        ["CLIENT", "KILL", "TYPE", "normal"],
        ["EVAL", "return redis.call('CONFIG', 'GET', 'dir')", "0"],
    ):
        said = guest.redis_cli(*command)
        assert any(no in said for no in ("NOPERM", "permissions", "not allowed")), (command, said)


@pytest.mark.usefixtures("running")
async def test_nobody_gets_in_without_tls_password_or_trust(guest):
    assert "WRONGPASS" in guest.redis_cli("PING", password="guess")
    for password in ("", "nopass", PASSWORD):
        said = guest.redis_cli("PING", name="default", password=password)
        assert "PONG" not in said, said
    assert guest.redis_cli(stdin="PING\nGET x\nCONFIG GET *\n", name="").count("NOAUTH") == 3
    assert "NOAUTH" in guest.redis_cli(stdin="RESET\nCONFIG GET dir\n")
    assert "PONG" not in await asyncio.to_thread(from_nowhere, guest)
    said = await asyncio.to_thread(from_nowhere, guest, "--tls")
    assert "certificate verify failed" in said


@pytest.mark.usefixtures("running")
async def test_certificate_names_the_address(guest):
    context = ssl.create_default_context(cafile=str(guest.root_file()))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((guest.address, REDIS_PORT), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=guest.address) as secure,
    ):
        assert secure.version() == "TLSv1.3"
    with (
        socket.create_connection((guest.address, REDIS_PORT), timeout=10) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname="127.9.9.9")


async def test_nothing_acknowledged_is_lost_by_kill_9(running, guest, spec):
    lines = "".join(f"SET key:{number} {number}\n" for number in range(500))
    said = guest.redis_cli(stdin=lines)
    assert said.split() == ["OK"] * 500
    guest.kill()
    await until_gone(running, spec)
    await running.start(spec)
    assert guest.redis_cli("DBSIZE") == "500"
    assert guest.redis_cli("GET", "key:499") == "499"


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_transactions_and_scripts_are_replayed_whole(running, guest, spec, end):
    """Redis replays them as its default user, whatever that may do."""
    said = guest.redis_cli(stdin="MULTI\nSET a 1\nINCRBY a 41\nEXEC\n")
    assert said.split()[-1] == "42"
    guest.redis_cli("EVAL", "redis.call('SET', 'b', 2); return redis.call('SET', 'c', 3)", "0")
    if end == "stop":
        await running.stop(spec)
    else:
        guest.kill()
        await until_gone(running, spec)
    await running.start(spec)
    assert guest.redis_cli("MGET", "a", "b", "c").split() == ["42", "2", "3"]
    assert "CRITICAL" not in (guest.root / "engine/data/redis.log").read_text()


async def test_user_keeps_the_rules_and_a_new_password_replaces_the_old(
    running, guest, spec, issue
):
    await running.apply(spec, [], [user("bob"), user("ada", "another")])
    await running.stop(spec)
    await running.create(spec, issue)
    await running.start(spec)
    assert guest.redis_cli("PING", password="another") == "PONG"
    assert "WRONGPASS" in guest.redis_cli("PING")
    assert guest.redis_cli("PING", name="bob") == "PONG"


async def test_names_with_quotes_and_unicode_work_and_are_only_names(running, guest, spec):
    weird = "o'Neil\"\\on+@admin🛒~*"
    await running.apply(spec, [], [user(weird)])
    assert guest.redis_cli("ACL", "WHOAMI", name=weird) == weird
    assert "NOPERM" in guest.redis_cli("CONFIG", "GET", "dir", name=weird)


async def test_bad_users_and_versions_are_refused_before_anything_is_touched(engine, spec, guest):
    engine.check(spec, [], [user("ada")])
    for bad in (
        engine_pb2.UserSpec(name="eve", verifier="plain password"),
        engine_pb2.UserSpec(name="eve", verifier=user("eve").verifier + " +@all"),
        user("default"),
        user("os_admin"),
        user("two words"),
        user("a\nb"),
        user(""),
        user("x" * 65),
    ):
        with pytest.raises(InvalidRequestError) as refused:
            engine.check(spec, [], [bad])
        assert "plain password" not in refused.value.message
    limited = user("ada")
    limited.databases.append("shop")
    with pytest.raises(UnsupportedError):
        engine.check(spec, [], [limited])
    with pytest.raises(InvalidRequestError):
        engine.check(EngineSpec(version="7", listen_addresses=(), port=1, memory_mib=1), [], [])
    assert not engine.capabilities.databases
    assert not list((guest.root / "engine/data").iterdir())


async def test_version_that_is_not_installed_is_refused(engine, spec, issue, guest):
    other = EngineSpec(
        version="6.2", listen_addresses=spec.listen_addresses, port=REDIS_PORT, memory_mib=512
    )
    with pytest.raises(UnsupportedError, match=r"installed: 7\.0\."):
        await engine.create(other, issue)
    assert not list((guest.root / "engine/data").iterdir())


async def test_start_says_why_when_the_port_is_taken(engine, spec, issue, guest):
    await engine.create(spec, issue)
    with socket.socket() as taken:
        taken.bind((guest.address, REDIS_PORT))
        taken.listen()
        with pytest.raises(ConflictError, match="Address already in use"):
            await engine.start(spec)


async def test_start_says_why_when_the_settings_are_broken(running, spec, guest):
    await running.stop(spec)
    conf = guest.root / "engine/data/redis.conf"
    conf.write_bytes(conf.read_bytes() + b"\nnonsense yes\n")
    with pytest.raises(ConflictError, match="nonsense"):
        await running.start(spec)


async def test_hanging_server_is_blocked_and_a_script_without_end_can_be_stopped(
    running, guest, spec
):
    (pid,) = guest.servers()
    os.kill(pid, signal.SIGSTOP)
    try:
        found = await running.probe(spec)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert found.process is Process.BLOCKED
    assert "redis-cli did not end within" in found.reason
    endless = asyncio.create_task(
        asyncio.to_thread(guest.redis_cli, "EVAL", "while true do end", "0")
    )
    try:
        for _ in range(10):
            found = await running.probe(spec)
            if "BUSY" in found.reason:
                break
        assert found.process is Process.BLOCKED
        assert "BUSY" in found.reason
        await running.stop(spec)
    finally:
        guest.kill()
        await endless
    assert not guest.servers()


async def test_server_that_reads_its_data_is_on_its_way(running, guest, spec):
    guest.redis_cli("EVAL", "for i = 1, 20000 do redis.call('SET', 'key:' .. i, i) end", "0")
    await running.stop(spec)
    conf = guest.root / "engine/data/redis.conf"
    conf.write_bytes(conf.read_bytes() + b"key-load-delay 200\n")  # µs
    starting = asyncio.create_task(running.start(spec))
    seen = set()  # it answers once in 1024 keys
    while not starting.done():
        found = await running.probe(spec)
        seen.add((found.process, found.reason))
    await starting
    (reason,) = {reason for process, reason in seen if "LOADING" in reason}
    assert (Process.STARTING, reason) in seen
    assert Process.BLOCKED not in {process for process, _ in seen}
    assert (await running.probe(spec)).process is Process.ANSWERING
    assert guest.redis_cli("DBSIZE") == "20000"


async def test_server_whose_socket_file_is_gone_is_stopped_all_the_same(running, guest, spec):
    (guest.root / "engine/run/redis.sock").unlink()
    assert (await running.probe(spec)).process is not Process.GONE
    await running.stop(spec)
    assert not guest.servers()


async def test_new_certificate_is_served_without_a_restart(running, guest, spec, issue):
    (pid,) = guest.servers()

    def served() -> str:
        return ssl.get_server_certificate((guest.address, REDIS_PORT), timeout=10)

    before = await asyncio.to_thread(served)
    await running.tend(spec, issue)
    assert await asyncio.to_thread(served) == before
    issue.supersedes = True
    await running.tend(spec, issue)
    assert await asyncio.to_thread(served) != before
    assert guest.servers() == [pid]


async def test_no_secret_stands_in_the_log_or_in_an_argument(running, guest, spec):
    secret = (guest.root / "engine/data/admin.secret").read_text()
    assert len(secret) > 40
    assert oct((guest.root / "engine/data/admin.secret").stat().st_mode)[-3:] == "600"
    await running.apply(spec, [], [user("ada")])
    for name in ("users.acl", "server.pem", "redis.conf"):
        assert oct((guest.root / "engine/data" / name).stat().st_mode)[-2:] == "00", name
    log = (guest.root / "engine/data/redis.log").read_text()
    for hidden in (secret, PASSWORD, user("ada").verifier[1:]):
        assert hidden not in log
        (pid,) = guest.servers()
        assert hidden not in Path(f"/proc/{pid}/cmdline").read_text()
        assert hidden not in Path(f"/proc/{pid}/environ").read_text()
