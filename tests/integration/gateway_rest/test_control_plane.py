"""The contract of `gateway.rest.control_plane`: the fake and a real conductor both keep it."""

from __future__ import annotations

import contextlib
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

import conductor.config
from gateway.rest.control_plane import ControlPlane
from gateway.rest.grpc_control_plane import GrpcControlPlane
from tests.fakes.certificates import TestAuthority
from tests.fakes.control_plane import running_conductor
from tests.fakes.rest_control_plane import FakeControlPlane, build_datastore
from tests.fakes.rest_guests import FakeGuests
from tests.fakes.rest_server import running_rest
from trove_grpc import errors
from trove_grpc.client import PeerChannel
from trove_grpc.gen.conductor.v1 import instance_service_pb2, resources_pb2
from trove_grpc.gen.taskmanager.v1 import task_manager_service_pb2, task_manager_service_pb2_grpc
from trove_grpc.identity import Role
from trove_grpc.server import build_internal_server
from trove_grpc.tls import IdentityDirectory

VERSIONS = [("15", "15.18", True), ("14", "14.2", False)]
WAKE_TIMEOUT = dt.timedelta(seconds=0.3)
FLAVOR = task_manager_service_pb2.Flavor(id="1", name="db.tiny", ram_mib=512, vcpus=1)


class TaskManager(task_manager_service_pb2_grpc.TaskManagerServiceServicer):
    """One flavor, and a memory of what it was woken for."""

    def __init__(self) -> None:
        self.woken: list[str] = []

    async def Wake(self, request, _context):
        self.woken.append(request.operation_id)
        return task_manager_service_pb2.WakeResponse()

    async def ListFlavors(self, _request, _context):
        return task_manager_service_pb2.ListFlavorsResponse(flavors=[FLAVOR])


@contextlib.asynccontextmanager
async def running_task_manager(path: Path, authority: TestAuthority) -> AsyncIterator[tuple]:
    servicer = TaskManager()
    identity = authority.identity_for_service(Role.TASKMANAGER, path)
    server = build_internal_server(
        "127.0.0.1:0",
        identity=identity,
        services=[],
        register=lambda target: (
            task_manager_service_pb2_grpc.add_TaskManagerServiceServicer_to_server(
                servicer, target
            )
        ),
    )
    await server.start()
    try:
        yield servicer, f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def fake(_tmp_path: Path) -> AsyncIterator[FakeControlPlane]:
    yield FakeControlPlane([build_datastore("postgresql", VERSIONS)])


@contextlib.asynccontextmanager
async def real(tmp_path: Path) -> AsyncIterator[GrpcControlPlane]:
    authority = TestAuthority()
    offered = conductor.config.Datastore(
        name="postgresql",
        manager="postgresql",
        port=5432,
        default_version="15",
        versions=tuple(
            conductor.config.Version(name=name, version=number, active=active)
            for name, number, active in VERSIONS
        ),
    )
    quotas = conductor.config.Quotas(instances=4)
    async with (
        running_conductor(tmp_path, authority, datastores=(offered,), quotas=quotas) as running,
        running_task_manager(tmp_path / "taskmanager", authority) as (_servicer, address),
        connected(authority, tmp_path / "api", running.address, address) as control_plane,
    ):
        yield control_plane


@contextlib.asynccontextmanager
async def connected(
    authority: TestAuthority, path: Path, conductor_address: str, taskmanager_address: str
) -> AsyncIterator[GrpcControlPlane]:
    identity: IdentityDirectory = authority.identity_for_service(Role.API, path)
    async with (
        PeerChannel([conductor_address], identity=identity, server_role=Role.CONDUCTOR) as one,
        PeerChannel([taskmanager_address], identity=identity, server_role=Role.TASKMANAGER) as two,
    ):
        yield GrpcControlPlane(
            conductor=one, taskmanager=two, guests=FakeGuests(), wake_timeout=WAKE_TIMEOUT
        )


Open = Callable[[Path], AbstractAsyncContextManager[ControlPlane]]


@pytest.fixture(params=[fake, real])
async def control_plane(request, tmp_path):
    async with request.param(tmp_path) as control_plane:
        yield control_plane


def new_instance(**changes) -> instance_service_pb2.CreateInstanceRequest:
    return instance_service_pb2.CreateInstanceRequest(
        **{
            "request_id": str(uuid.uuid4()),
            "tenant_id": "demo",
            "name": "i1",
            "flavor": resources_pb2.Flavor(id="1", name="db.tiny", ram_mib=512, vcpus=1),
            "volume_size_gib": 1,
            "region": "RegionOne",
        }
        | changes
    )


def renaming(
    instance_id: str, name: str, tenant_id: str = "demo", **changes
) -> instance_service_pb2.UpdateInstanceRequest:
    return instance_service_pb2.UpdateInstanceRequest(
        tenant_id=tenant_id, instance_id=instance_id, name=name, **changes
    )


def deleting(
    instance_id: str, tenant_id: str = "demo", **conditions
) -> instance_service_pb2.DeleteInstanceRequest:
    return instance_service_pb2.DeleteInstanceRequest(
        tenant_id=tenant_id,
        instance_id=instance_id,
        request_id=str(uuid.uuid4()),
        **conditions,
    )


async def test_created_instance_is_building_and_can_be_read(control_plane):
    access = resources_pb2.Access(is_public=False, allowed_cidrs=["10.0.0.0/8"])
    created = await control_plane.create_instance(new_instance(access=access))
    read = await control_plane.get_instance("demo", created.instance.id)
    operation = await control_plane.get_operation("demo", created.operation_id)

    assert (read.name, read.status, read.operating_status) == ("i1", "BUILD", "")
    assert read.datastore_version.datastore_name == "postgresql"
    assert read.datastore_version.name == "15"
    assert read.access == access
    assert read.flavor.id == "1"
    assert read.region == "RegionOne"
    assert read.create_time.seconds
    assert not read.HasField("fault")
    assert (operation.kind, operation.instance_id) == ("create_instance", read.id)


async def test_repeated_request_id_is_the_same_instance(control_plane):
    request = new_instance()
    first = await control_plane.create_instance(request)
    second = await control_plane.create_instance(request)

    assert first.instance.id == second.instance.id
    assert first.operation_id == second.operation_id


@pytest.mark.parametrize("instance_id", ["nope", "データ", str(uuid.uuid4()), "x" * 300])
async def test_unknown_instance_is_not_found(control_plane, instance_id):
    for read in (
        control_plane.get_instance("demo", instance_id),
        control_plane.update_instance(renaming(instance_id, "x")),
        control_plane.delete_instance(deleting(instance_id)),
        control_plane.get_operation("demo", instance_id),
    ):
        with pytest.raises(errors.NotFoundError):
            await read
    operations = await control_plane.list_operations(
        "demo", instance_id, page_size=20, page_token=""
    )
    assert not operations.operations


async def test_another_tenants_instance_is_not_found(control_plane):
    created = await control_plane.create_instance(new_instance())
    for read in (
        control_plane.get_instance("other", created.instance.id),
        control_plane.update_instance(renaming(created.instance.id, "x", "other")),
        control_plane.delete_instance(deleting(created.instance.id, "other")),
        control_plane.get_operation("other", created.operation_id),
    ):
        with pytest.raises(errors.NotFoundError):
            await read
    listed = await control_plane.list_instances("other", page_size=20, page_token="")
    assert not listed.instances


async def test_pages_are_by_id_and_a_marker_is_a_place_in_the_order(control_plane):
    ids = sorted(
        [(await control_plane.create_instance(new_instance())).instance.id for _ in range(3)]
    )
    first = await control_plane.list_instances("demo", page_size=2, page_token="")
    second = await control_plane.list_instances(
        "demo", page_size=2, page_token=first.next_page_token
    )
    after_all = await control_plane.list_instances("demo", page_size=2, page_token="zzz")

    assert [item.id for item in first.instances] == ids[:2]
    assert [item.id for item in second.instances] == ids[2:]
    assert second.next_page_token == ""
    assert not after_all.instances


async def test_new_name_is_read_back(control_plane):
    created = await control_plane.create_instance(new_instance())
    await control_plane.update_instance(renaming(created.instance.id, "データ"))

    assert (await control_plane.get_instance("demo", created.instance.id)).name == "データ"


async def test_instance_that_is_building_is_not_deleted(control_plane):
    created = await control_plane.create_instance(new_instance())
    with pytest.raises(errors.ConflictError) as caught:
        await control_plane.delete_instance(deleting(created.instance.id))

    assert caught.value.reason == "INSTANCE_NOT_READY"


async def test_quota_of_instances_is_kept(control_plane):
    if isinstance(control_plane, FakeControlPlane):
        control_plane.limits["instances"] = 4
    limits = {item.resource: item.limit for item in await control_plane.get_quota("demo")}
    for _ in range(4):
        await control_plane.create_instance(new_instance())

    assert limits == {"instances": 4, "volumes": 40, "ram": -1, "backups": 50}
    with pytest.raises(errors.QuotaExceededError):
        await control_plane.create_instance(new_instance())


async def test_too_large_a_volume_has_its_own_reason(control_plane):
    with pytest.raises(errors.TroveError) as caught:
        await control_plane.create_instance(new_instance(volume_size_gib=1_000_000))

    assert caught.value.reason == "VOLUME_TOO_LARGE"


async def test_datastores_show_active_versions(control_plane):
    (listed,) = await control_plane.list_datastores()
    by_name = await control_plane.get_datastore("postgresql")
    by_id = await control_plane.get_datastore(listed.id)

    assert listed == by_name == by_id
    assert [(item.name, item.version) for item in listed.versions] == [("15", "15.18")]
    assert listed.default_version_id == listed.versions[0].id


async def test_version_is_found_by_names_ids_and_defaults(control_plane):
    datastore = await control_plane.get_datastore("postgresql")
    version_id = datastore.versions[0].id
    found = [
        await control_plane.get_datastore_version(datastore_name, version)
        for datastore_name, version in (
            ("postgresql", "15"),
            (datastore.id, version_id),
            ("", version_id),
            ("postgresql", ""),
            ("", ""),
        )
    ]

    assert {item.id for item in found} == {version_id}
    assert {item.manager for item in found} == {"postgresql"}


@pytest.mark.parametrize(
    ("datastore", "version", "reason"),
    [
        ("nope", "", "DATASTORE_NOT_FOUND"),
        ("nope", "15", "DATASTORE_NOT_FOUND"),
        ("postgresql", "nope", "DATASTORE_VERSION_NOT_FOUND"),
        ("", "nope", "DATASTORE_VERSION_NOT_FOUND"),
    ],
)
async def test_unknown_datastore_and_version_have_their_reasons(
    control_plane, datastore, version, reason
):
    with pytest.raises(errors.NotFoundError) as caught:
        await control_plane.get_datastore_version(datastore, version)

    assert caught.value.reason == reason


async def test_inactive_version_can_be_shown_but_not_chosen(control_plane):
    shown = await control_plane.get_datastore_version("postgresql", "14")
    with pytest.raises(errors.InvalidRequestError) as caught:
        await control_plane.create_instance(
            new_instance(datastore="postgresql", datastore_version="14")
        )

    assert not shown.is_active
    assert caught.value.reason == "DATASTORE_VERSION_INACTIVE"


async def test_flavors_have_ids(control_plane):
    assert "1" in [item.id for item in await control_plane.list_flavors()]


async def test_wake_reaches_the_task_manager(tmp_path):
    authority = TestAuthority()
    async with (
        running_task_manager(tmp_path / "taskmanager", authority) as (servicer, address),
        connected(authority, tmp_path / "api", "127.0.0.1:1", address) as control_plane,
    ):
        await control_plane.wake("op-1")

    assert servicer.woken == ["op-1"]


async def test_wake_is_silent_when_nobody_is_there(tmp_path, caplog):
    async with connected(TestAuthority(), tmp_path, "127.0.0.1:1", "127.0.0.1:1") as control_plane:
        await control_plane.wake("op-1")

    assert "op-1" in caplog.text


async def test_missing_conductor_is_503(tmp_path):
    async with (
        connected(TestAuthority(), tmp_path, "127.0.0.1:1", "127.0.0.1:1") as control_plane,
        running_rest(control_plane) as client,
    ):
        answer = await client.send("GET", "/instances")

    assert answer.status == 503
    assert "serviceUnavailable" in answer.json


async def test_refused_certificate_is_not_the_clients_fault(tmp_path):
    authority, stranger = TestAuthority(), TestAuthority()
    async with running_conductor(tmp_path, authority) as running:
        path = tmp_path / "guest"
        identity = authority.identity_for_service(Role.GATEWAY, path)
        async with (
            PeerChannel(
                [running.address], identity=identity, server_role=Role.CONDUCTOR
            ) as wrong_role,
            running_rest(
                GrpcControlPlane(
                    conductor=wrong_role,
                    taskmanager=wrong_role,
                    guests=FakeGuests(),
                    wake_timeout=WAKE_TIMEOUT,
                )
            ) as client,
        ):
            refused = await client.send("GET", "/instances")
        async with (
            connected(stranger, tmp_path / "s", running.address, running.address) as foreign,
            running_rest(foreign) as client,
        ):
            unknown = await client.send("GET", "/instances")

    assert (refused.status, unknown.status) == (503, 503)


async def test_change_of_another_version_is_refused_and_a_repeat_is_not(control_plane):
    created = (await control_plane.create_instance(new_instance())).instance
    seen = created.row_version
    change = renaming(created.id, "i2", expected_row_versions=[seen])
    await control_plane.update_instance(change)
    await control_plane.update_instance(change)
    changed = await control_plane.get_instance("demo", created.id)
    assert (changed.name, changed.row_version > seen) == ("i2", True)
    for refused in (
        control_plane.update_instance(renaming(created.id, "i3", expected_row_versions=[seen])),
        control_plane.delete_instance(deleting(created.id, expected_row_versions=[seen])),
    ):
        with pytest.raises(errors.StaleError) as caught:
            await refused
        assert caught.value.reason == "PRECONDITION_FAILED"
    both = [seen, changed.row_version]
    await control_plane.update_instance(renaming(created.id, "i3", expected_row_versions=both))


async def test_protected_instance_is_not_deleted_until_it_is_freed(control_plane):
    request = new_instance(deletion_protection=True)
    created = (await control_plane.create_instance(request)).instance
    assert created.deletion_protection
    await control_plane.update_instance(renaming(created.id, "i2"))
    with pytest.raises(errors.ConflictError) as caught:
        await control_plane.delete_instance(deleting(created.id))
    assert caught.value.reason == "DELETION_PROTECTED"
    await control_plane.update_instance(renaming(created.id, "", deletion_protection=False))
    freed = await control_plane.get_instance("demo", created.id)
    assert (freed.name, freed.deletion_protection) == ("i2", False)
    with pytest.raises(errors.ConflictError) as caught:  # it is still building
        await control_plane.delete_instance(deleting(created.id))
    assert caught.value.reason == "INSTANCE_NOT_READY"
