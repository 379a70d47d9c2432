"""Two conductors on one server database: no caller can tell which of them it asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conductor.config import Quotas
from tests.fakes.certificates import TestAuthority
from tests.fakes.conductor_client import ConductorClient, client_of
from tests.fakes.control_plane import RunningConductor, running_conductor
from tests.fakes.database_servers import KINDS
from tests.fakes.state_databases import ServerOf
from trove_grpc.client import PeerChannel, call
from trove_grpc.errors import QuotaExceededError
from trove_grpc.gen.conductor.v1 import instance_service_pb2 as pb
from trove_grpc.gen.conductor.v1 import instance_service_pb2_grpc as rpc
from trove_grpc.identity import Role

PLACES = 5


@contextlib.asynccontextmanager
async def conductor(
    tmp_path: Path, name: str, authority: TestAuthority, url: str
) -> AsyncIterator[RunningConductor]:
    folder = tmp_path / name
    folder.mkdir()
    async with running_conductor(
        folder,
        authority,
        database_url=url,
        sealing_key_file=tmp_path / "sealing.key",
        quotas=Quotas(instances=PLACES),
    ) as running:
        yield running


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, database_servers: ServerOf) -> str:
    return database_servers(request.param).new_database()


@pytest.fixture
async def both(
    tmp_path: Path, authority: TestAuthority, url: str
) -> AsyncIterator[tuple[ConductorClient, ConductorClient]]:
    async with (
        conductor(tmp_path, "a", authority, url) as one,
        conductor(tmp_path, "b", authority, url) as two,
        client_of(one) as here,
        client_of(two) as there,
    ):
        yield here, there


async def test_repeats_of_a_create_at_both_make_one_instance(
    both: tuple[ConductorClient, ConductorClient],
) -> None:
    made = await asyncio.gather(
        *(client.create(request_id="r1") for _ in range(6) for client in both)
    )
    assert len(set(made)) == 1


async def test_creates_at_both_take_exactly_the_places_there_are(
    both: tuple[ConductorClient, ConductorClient],
) -> None:
    results = await asyncio.gather(
        *(client.create() for _ in range(10) for client in both), return_exceptions=True
    )
    made = [result for result in results if isinstance(result, tuple)]
    refused = [result for result in results if isinstance(result, QuotaExceededError)]
    assert (len(made), len(refused)) == (PLACES, 20 - PLACES)
    here, there = both
    for instance_id, operation_id in made:
        await asyncio.gather(here.finish(operation_id), there.finish(operation_id))
        deletes = await asyncio.gather(here.delete(instance_id), there.delete(instance_id))
        assert len(set(deletes)) == 1
        await asyncio.gather(here.finish(deletes[0]), there.finish(deletes[0]))
    assert len({(await there.create())[0] for _ in range(PLACES)}) == PLACES
    with pytest.raises(QuotaExceededError):
        await here.create()


async def test_epochs_granted_by_both_never_repeat(
    both: tuple[ConductorClient, ConductorClient],
) -> None:
    here, there = both
    instance = await here.create_active()
    epochs = await asyncio.gather(
        *(client.open_session(instance) for _ in range(5) for client in (here, there))
    )
    assert sorted(epochs) == list(range(1, 11))


async def test_caller_that_knows_both_goes_on_when_one_stops(
    tmp_path: Path, authority: TestAuthority, url: str
) -> None:
    identity = authority.identity_for_service(Role.API, tmp_path / "api")
    async with conductor(tmp_path, "b", authority, url) as two:
        async with conductor(tmp_path, "a", authority, url) as one:
            addresses = [one.address, two.address]
            async with client_of(one) as client:
                instance = await client.create_active()
            channel = PeerChannel(addresses, identity=identity, server_role=Role.CONDUCTOR)
            assert await name_of(channel, instance) == "db"
        async with channel:
            assert await name_of(channel, instance) == "db"


async def name_of(channel: PeerChannel, instance_id: str) -> str:
    response = await call(
        channel.stub(rpc.InstanceServiceStub).GetInstanceView,
        pb.GetInstanceViewRequest(tenant_id="demo", instance_id=instance_id),
        timeout=20,
        retry=True,
    )
    return str(response.instance.name)
