"""What every engine promises, the fake one of other tests included."""

from __future__ import annotations

import dataclasses

import pytest

from guestagent.engines import EngineSpec, Process
from guestagent.engines.catalogue import build_engine
from tests.fakes.engine import FakeDatabaseAuthority, FakeEngine
from trove_grpc.errors import InvalidRequestError, UnsupportedError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb

PORTS = {"fake": 5432, "mariadb": 3306, "postgresql": 5432, "redis": 6379}
VERSIONS = {"fake": "1", "mariadb": "10.11", "postgresql": "15", "redis": "7.0"}


@pytest.fixture(params=sorted(PORTS))
def manager(request):
    return request.param


@pytest.fixture
def engine(manager, machine):
    return FakeEngine() if manager == "fake" else build_engine(machine.config(manager=manager))


@pytest.fixture
def databases(engine):
    has_databases = engine.capabilities.databases
    return [engine_pb2.DatabaseSpec(name="shop")] if has_databases else []


@pytest.fixture
def spec(manager, machine):
    return EngineSpec(
        version=VERSIONS[manager],
        listen_addresses=(machine.address,),
        port=PORTS[manager],
        memory_mib=256,
    )


@pytest.fixture
def issue(machine, authority):
    return FakeDatabaseAuthority(authority, [machine.address])


async def test_engine_lives_through_its_whole_life_twice_over(engine, spec, issue, databases):
    assert (await engine.probe(spec)).process is Process.GONE
    assert not await engine.certificate_serial()
    for _ in range(2):
        await engine.create(spec, issue)
        for _ in range(2):
            await engine.start(spec)
        found = await engine.probe(spec)
        assert found.process is Process.ANSWERING
        assert found.version
        for _ in range(2):
            await engine.apply(spec, databases, [])
        usage = await engine.tend(spec, issue)
        assert 0 < usage.used_bytes < usage.total_bytes
        assert await engine.certificate_serial()
        for _ in range(2):
            await engine.stop(spec)
        gone = await engine.probe(spec)
        assert gone.process is Process.GONE
        assert gone.reason


async def test_engine_starts_with_the_settings_it_was_given_last(engine, spec, issue):
    await engine.create(spec, issue)
    await engine.start(spec)
    larger = dataclasses.replace(spec, memory_mib=2 * spec.memory_mib)
    for each in (larger, spec):
        for _ in range(2):
            await engine.write_settings(each)
        assert (await engine.probe(each)).process is Process.ANSWERING  # it reads them at a start
        await engine.stop(each)
        await engine.start(each)
        assert (await engine.probe(each)).process is Process.ANSWERING
    await engine.stop(spec)


async def test_nameless_users_and_addresses_are_refused(engine, spec, databases):
    engine.check(spec, databases, [])
    with pytest.raises(InvalidRequestError):
        engine.check(spec, [], [engine_pb2.UserSpec(name="")])
    if databases:
        with pytest.raises(InvalidRequestError):
            engine.check(spec, [engine_pb2.DatabaseSpec(name="")], [])
    for addresses in ((), ("nowhere",)):
        with pytest.raises(InvalidRequestError):
            engine.check(dataclasses.replace(spec, listen_addresses=addresses), databases, [])


async def test_what_an_engine_does_not_have_is_refused_before_it_is_tried(engine):
    capabilities = engine.capabilities
    asked = [engine_pb2.DatabaseSpec(name="shop")]
    limited = [engine_pb2.UserSpec(name="ann", host="10.0.0.1")]
    if not capabilities.databases:
        with pytest.raises(UnsupportedError):
            capabilities.check(asked, [])
    if not capabilities.user_hosts:
        with pytest.raises(InvalidRequestError):
            capabilities.check([], limited)
    capabilities.check([], [])


async def test_actions_are_commands_of_the_contract(engine, manager):
    assert engine.capabilities.manager == manager
    assert {"prepare", "ping", "start", "stop", "restart", "resize"} <= engine.capabilities.actions
    known = {field.name for field in pb.Command.DESCRIPTOR.oneofs_by_name["action"].fields}
    assert engine.capabilities.actions <= known
