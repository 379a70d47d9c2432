"""Every tenant's instances as administrators read them, living and deleted."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conductor.executor import Database
from conductor.status import Task
from conductor.store import instances
from conductor.words import describe_service_status, describe_task
from tests.fakes.certificates import TestAuthority
from tests.fakes.conductor_client import ConductorClient, client_of
from tests.fakes.control_plane import RunningConductor, running_conductor
from tests.fakes.records import NOW, begin_delete, create, finish
from trove_grpc.client import PeerChannel, call
from trove_grpc.errors import InvalidRequestError, NotFoundError, PermissionDeniedError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import management_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import management_service_pb2_grpc
from trove_grpc.identity import Role


@pytest.fixture
async def conductor(tmp_path: Path, authority: TestAuthority) -> AsyncIterator[RunningConductor]:
    async with running_conductor(tmp_path, authority) as running:
        yield running


@pytest.fixture
async def client(conductor: RunningConductor) -> AsyncIterator[ConductorClient]:
    async with client_of(conductor) as client:
        yield client


@pytest.fixture
async def api(conductor: RunningConductor) -> AsyncIterator[PeerChannel]:
    async with conductor.channel(Role.API) as channel:
        yield channel


async def shown(channel: PeerChannel, instance_id: str, **changes: bool) -> pb2.ManagedInstance:
    stub = channel.stub(management_service_pb2_grpc.ManagementServiceStub)
    request = pb2.GetManagedInstanceRequest(instance_id=instance_id, **changes)
    response = await call(stub.GetManagedInstance, request, timeout=10)
    return response.instance


async def listed(channel: PeerChannel, **changes: object) -> pb2.ListManagedInstancesResponse:
    stub = channel.stub(management_service_pb2_grpc.ManagementServiceStub)
    request = pb2.ListManagedInstancesRequest(**changes)
    return await call(stub.ListManagedInstances, request, timeout=10)


async def pages(database: Database, **changes: object) -> list[str]:
    arguments = {"tenant_id": "", "is_deleted": None, "offset": 0, "limit": 20} | changes
    records = await database.read(instances.list_managed_instances, **arguments)
    return [record.instance.id for record in records]


async def test_newest_come_first_in_pages_of_every_tenant(database: Database) -> None:
    made = [
        (
            await create(
                database, tenant_id=f"t{number % 2}", now=NOW + dt.timedelta(seconds=number)
            )
        )[0]
        for number in range(5)
    ][::-1]

    assert await pages(database) == made
    assert await pages(database, offset=1, limit=2) == made[1:3]
    assert await pages(database, tenant_id="t1") == [made[1], made[3]]
    assert await pages(database, offset=9) == []


async def test_deleted_ones_are_listed_with_or_without_or_alone(database: Database) -> None:
    alive, _ = await create(database)
    gone, operation = await create(database, now=NOW + dt.timedelta(seconds=1))
    await finish(database, operation)
    await finish(database, await begin_delete(database, gone))

    assert await pages(database) == [gone, alive]
    assert await pages(database, is_deleted=True) == [gone]
    assert await pages(database, is_deleted=False) == [alive]


async def test_a_deleted_instance_is_shown_as_shut_down_when_asked_for(
    client: ConductorClient, api: PeerChannel
) -> None:
    gone = await client.create_active()
    await client.finish(await client.delete(gone))
    with pytest.raises(NotFoundError):
        await shown(api, gone)
    item = await shown(api, gone, include_deleted=True)

    assert item.HasField("delete_time")
    assert (item.instance.status, item.instance.operating_status) == ("SHUTDOWN", "")
    assert (item.service_status, item.service_status_description) == ("DELETED", "deleted")
    assert item.instance.datastore_version.name == "15"


async def test_what_the_agent_said_is_shown_whatever_the_task_is(
    client: ConductorClient, api: PeerChannel
) -> None:
    made, _ = await client.create()
    before = await shown(api, made)
    await client.lease()
    await client.open_session(made, state=engine_pb2.ENGINE_STATE_BLOCKED)
    after = await shown(api, made)

    assert (before.task, before.service_status) == ("BUILDING", "NEW")
    assert (after.task, after.service_status) == ("BUILDING", "BLOCKED")
    assert after.instance.operating_status == ""


async def test_pages_say_whether_there_are_more(client: ConductorClient, api: PeerChannel) -> None:
    for _ in range(3):
        await client.create()
    first = await listed(api, page_size=2)
    second = await listed(api, page_size=2, offset=2)

    assert (len(first.instances), first.has_more) == (2, True)
    assert (len(second.instances), second.has_more) == (1, False)


@pytest.mark.parametrize("changes", [{"page_size": -1}, {"offset": -1}, {"deleted": 9}])
async def test_nonsense_is_refused(api: PeerChannel, changes: dict[str, int]) -> None:
    with pytest.raises(InvalidRequestError):
        await listed(api, **changes)


async def test_no_task_manager_and_no_gateway_reads_across_tenants(
    conductor: RunningConductor,
) -> None:
    for role in (Role.TASKMANAGER, Role.GATEWAY):
        async with conductor.channel(role) as channel:
            with pytest.raises(PermissionDeniedError):
                await listed(channel)


def test_every_task_has_words() -> None:
    assert all(describe_task(task).endswith(".") for task in Task)
    assert describe_task("RESIZING") == "Resizing the instance."
    assert describe_service_status("RESTARTING") == "restarting"
