"""Redis by commands: an agent and its gateway, and what the engine's tenant sees of it."""

from __future__ import annotations

import signal

import pytest

from tests.fakes.guest_gateway import FakeGateway, eventually
from tests.integration.guestagent.conftest import Machine
from tests.integration.guestagent.redis_guest import RedisMachine, user
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb


@pytest.fixture
def guest(machine: Machine) -> RedisMachine:
    return RedisMachine(**vars(machine))


@pytest.fixture
async def prepared(guest, gateway: FakeGateway):
    """An agent in this process whose engine has a user."""
    guest.enrol_at_once()
    async with guest.agent() as agent:
        await gateway.connected()
        result = await gateway.command("prepare-1", prepare=guest.action(user("ada")))
        assert result.error_reason == "", result.error_message
        yield agent, result


async def test_prepared_engine_is_healthy_and_names_its_version(prepared, guest, gateway):
    _, result = prepared
    assert result.prepare.engine_version.startswith("7.0.")
    assert result.prepare.observation.state == engine_pb2.ENGINE_STATE_HEALTHY
    assert result.prepare.observation.volume.used_bytes > 0
    assert gateway.states() == ["PREPARING", "HEALTHY"]
    assert guest.redis_cli("PING") == "PONG"


async def test_engine_has_no_databases_by_name(guest, gateway: FakeGateway):
    guest.enrol_at_once()
    async with guest.agent():
        await gateway.connected()
        action = guest.action(user("ada"))
        action.databases.add(name="shop")
        result = await gateway.command("p", prepare=action)
        assert result.error_reason == "UNSUPPORTED"
    assert not list((guest.root / "engine/data").iterdir())


@pytest.mark.usefixtures("prepared")
async def test_engine_comes_back_after_kill_9_with_its_data(guest, gateway: FakeGateway):
    assert guest.redis_cli("SET", "kept", "42") == "OK"
    guest.kill()
    await eventually(lambda: gateway.states()[-2:] == ["CRASHED", "HEALTHY"])
    await eventually(lambda: gateway.heartbeats[-1].observation.start_count == 2)
    assert guest.redis_cli("GET", "kept") == "42"


@pytest.mark.usefixtures("prepared")
async def test_stop_start_and_restart_keep_data_and_users(guest, gateway: FakeGateway):
    assert guest.redis_cli("SET", "kept", "42") == "OK"
    stopped = await gateway.command("s", stop=pb.StopAction())
    assert stopped.engine.observation.state == engine_pb2.ENGINE_STATE_STOPPED
    assert not guest.servers()
    started = await gateway.command("s2", start=pb.StartAction())
    assert started.engine.observation.state == engine_pb2.ENGINE_STATE_HEALTHY
    before = guest.servers()
    restarted = await gateway.command("r", restart=pb.RestartAction())
    assert restarted.engine.observation.state == engine_pb2.ENGINE_STATE_HEALTHY
    assert guest.servers() != before
    assert guest.redis_cli("GET", "kept") == "42"


@pytest.mark.usefixtures("prepared")
async def test_server_that_cannot_write_to_disk_is_blocked_until_it_can(
    guest, gateway: FakeGateway
):
    # Snapshots for once: a failing one needs a directory that refuses, not a full disk.
    folder = guest.root / "engine/data/redis"
    folder.chmod(0o500)
    try:
        assert guest.admin("CONFIG", "SET", "save", "3600 1") == "OK"
        assert "started" in guest.admin("BGSAVE")
        observation = await gateway.state("BLOCKED", within=30)
        assert "MISCONF" in observation.reason
        assert "MISCONF" in guest.redis_cli("SET", "too", "much")
    finally:
        folder.chmod(0o700)
    assert guest.admin("CONFIG", "SET", "save", "") == "OK"
    await gateway.state("HEALTHY", within=30)
    assert guest.redis_cli("SET", "again", "1") == "OK"


async def test_agent_killed_in_the_middle_of_prepare_finishes_it_when_repeated(
    guest, gateway: FakeGateway
):
    guest.give_token()
    action = guest.action(user("ada"))
    home = guest.root / "engine/data"
    moments = [
        (home / "users.acl").exists,
        (home / "server.pem").exists,
        guest.servers,
    ]
    for number, moment in enumerate(moments):
        with guest.agent_process() as process:
            await gateway.connected(more_than=number)
            gateway.send_command("prepare-1", prepare=action)
            await eventually(moment, within=60)
            process.kill()
            process.wait()
        await eventually(lambda: not gateway.open)
        if gateway.results_of("prepare-1"):
            break  # Redis was quicker than we
    with guest.agent_process():
        await gateway.connected(more_than=number + 1)
        result = await gateway.command("prepare-1", prepare=action)
        assert result.error_reason == "", result.error_message + guest.log()
        assert guest.redis_cli("PING") == "PONG"
    assert user("ada").verifier[1:] not in guest.log()


async def test_agent_process_leaves_the_engine_adopts_it_and_stops_it_when_told(
    guest, gateway: FakeGateway
):
    guest.give_token()
    with guest.agent_process() as process:
        await gateway.connected()
        assert not (await gateway.command("p", prepare=guest.action())).error_reason
        servers = guest.servers()
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: process.poll() is not None)
        assert guest.servers() == servers
    gateway.heartbeats.clear()
    with guest.agent_process() as process:
        await gateway.connected(more_than=1)
        assert (await gateway.state("HEALTHY")).start_count == 1
        assert guest.servers() == servers
        process.send_signal(signal.SIGUSR1)
        await eventually(lambda: process.poll() is not None)
        assert not guest.servers()
