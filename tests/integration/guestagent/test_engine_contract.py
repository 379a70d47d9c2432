"""What every engine promises, the fake one of other tests included."""

from __future__ import annotations

import pytest

from guestagent.engines import EngineCertificate, EngineSpec, Process
from guestagent.engines.postgresql import PostgreSQL
from tests.fakes.engine import FakeEngine
from tests.integration.guestagent.conftest import PORT, VERSION
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2, trust_pb2

DATABASES = [engine_pb2.DatabaseSpec(name="shop")]


@pytest.fixture(params=["fake", "postgresql"])
def engine(request, machine):
    if request.param == "fake":
        return FakeEngine()
    config = machine.config()
    return PostgreSQL(
        machine.system,
        data_directory=config.data_directory,
        run_directory=config.run_directory,
        programs_directory=config.postgresql_directory,
    )


@pytest.fixture
def spec(machine):
    return EngineSpec(
        version=VERSION, listen_addresses=(machine.address,), port=PORT, memory_mib=256
    )


@pytest.fixture
def issue(machine, authority):
    async def sign(csr_der: bytes) -> EngineCertificate:
        chain = authority.engine_chain(csr_der, ip_addresses=[machine.address])
        root = authority.signers[trust_pb2.AUTHORITY_KIND_DATABASE_ROOT].pem
        return EngineCertificate(chain_pem=chain, root_pem=root)

    return sign


async def test_engine_lives_through_its_whole_life_twice_over(engine, spec, issue):
    assert (await engine.probe(spec)).process is Process.GONE
    for _ in range(2):
        await engine.create(spec, issue)
        for _ in range(2):
            await engine.start(spec)
        found = await engine.probe(spec)
        assert found.process is Process.ANSWERING
        assert found.version
        for _ in range(2):
            await engine.apply(spec, DATABASES, [])
        usage = await engine.tend(spec, issue)
        assert 0 < usage.used_bytes < usage.total_bytes
        for _ in range(2):
            await engine.stop(spec)
        gone = await engine.probe(spec)
        assert gone.process is Process.GONE
        assert gone.reason


async def test_nameless_database_and_address_are_refused(engine, spec):
    engine.check(spec, DATABASES, [])
    with pytest.raises(InvalidRequestError):
        engine.check(spec, [engine_pb2.DatabaseSpec(name="")], [])
    nowhere = EngineSpec(version=VERSION, listen_addresses=(), port=PORT, memory_mib=256)
    with pytest.raises(InvalidRequestError):
        engine.check(nowhere, DATABASES, [])


async def test_actions_are_commands_of_the_contract(engine):
    assert {"prepare", "ping"} <= engine.capabilities.actions
