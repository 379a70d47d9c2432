"""Actions on instances by REST, and the port below it against the fake and a real conductor."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.fakes.certificates import TestAuthority
from tests.fakes.conductor_client import client_of
from tests.fakes.control_plane import running_conductor
from tests.fakes.rest_admin import running_rest_with_admins
from tests.fakes.rest_control_plane import FakeControlPlane, build_datastore
from tests.fakes.rest_server import running_rest
from tests.integration.gateway_rest.test_control_plane import connected, new_instance
from trove_grpc import errors
from trove_grpc.gen.conductor.v1 import action_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import resources_pb2

OTHER = "beta"


class Bench:
    """A control plane with one instance that runs."""

    def __init__(self, control_plane: Any, instance_id: str) -> None:
        self.control_plane = control_plane
        self.instance_id = instance_id

    def request(self, **fields: Any) -> pb2.BeginActionRequest:
        values = {
            "tenant_id": "demo",
            "instance_id": self.instance_id,
            "request_id": str(uuid.uuid4()),
        }
        return pb2.BeginActionRequest(**values | fields)

    async def begin(self, **fields: Any) -> str:
        return str(await self.control_plane.actions.begin(self.request(**fields)))

    async def status(self) -> str:
        shown = await self.control_plane.get_instance("demo", self.instance_id)
        return str(shown.status)


async def build_fake(_tmp_path):
    control_plane = FakeControlPlane([build_datastore("postgresql", [("15", "15", True)])])
    created = await control_plane.create_instance(new_instance())
    control_plane.activate(created.instance.id)
    yield Bench(control_plane, created.instance.id)


async def build_real(tmp_path):
    authority = TestAuthority()
    async with (
        running_conductor(tmp_path, authority, max_volume_size=25) as running,
        connected(authority, tmp_path / "api", running.address, running.address) as control_plane,
        client_of(running) as client,
    ):
        await client.lease()
        instance_id = await client.create_active()
        await client.open_session(instance_id)
        yield Bench(control_plane, instance_id)


@pytest.fixture(params=[build_fake, build_real])
async def bench(request, tmp_path):
    async for bench in request.param(tmp_path):
        yield bench


RESTART = {"restart": pb2.RestartInstance()}


def volume(size_gib: int) -> dict[str, Any]:
    return {"resize_volume": pb2.ResizeVolume(size_gib=size_gib)}


def flavor(identity: str) -> dict[str, Any]:
    chosen = resources_pb2.Flavor(id=identity, name=f"f{identity}", ram_mib=1024, vcpus=1)
    return {"resize_flavor": pb2.ResizeFlavor(flavor=chosen)}


@pytest.mark.parametrize(
    ("action", "kind", "status"),
    [
        (RESTART, "restart_instance", "REBOOT"),
        ({"stop": pb2.StopInstance()}, "stop_instance", "ACTIVE"),
        (volume(2), "resize_volume", "RESIZE"),
        (flavor("2"), "resize_flavor", "RESIZE"),
    ],
)
async def test_an_action_is_an_operation_of_the_owners(bench, action, kind, status):
    operation_id = await bench.begin(**action)
    operation = await bench.control_plane.get_operation("demo", operation_id)
    assert (operation.kind, operation.instance_id) == (kind, bench.instance_id)
    assert await bench.status() == status


async def test_a_repeat_is_the_same_operation(bench):
    request = bench.request(**RESTART)
    first = await bench.control_plane.actions.begin(request)
    assert await bench.control_plane.actions.begin(request) == first
    request.stop.SetInParent()
    with pytest.raises(errors.ConflictError) as caught:
        await bench.control_plane.actions.begin(request)
    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_a_second_action_is_busy(bench):
    await bench.begin(**volume(2))
    with pytest.raises(errors.ConflictError) as caught:
        await bench.begin(**RESTART)
    assert caught.value.reason == "INSTANCE_BUSY"
    assert caught.value.message.endswith("(task status was RESIZING).")


@pytest.mark.parametrize(
    ("action", "reason"),
    [(volume(1), "VOLUME_NOT_LARGER"), (flavor("1"), "FLAVOR_UNCHANGED")],
)
async def test_a_target_that_is_none_is_refused(bench, action, reason):
    with pytest.raises(errors.InvalidRequestError) as caught:
        await bench.begin(**action)
    assert caught.value.reason == reason
    assert await bench.status() == "ACTIVE"


async def test_too_large_a_volume_has_its_own_reason(bench):
    with pytest.raises(errors.QuotaExceededError) as caught:
        await bench.begin(**volume(26))
    assert caught.value.reason == "VOLUME_TOO_LARGE"


async def test_another_tenants_instance_is_an_administrators_alone(bench):
    with pytest.raises(errors.NotFoundError):
        await bench.begin(tenant_id=OTHER, **RESTART)
    operation_id = await bench.begin(tenant_id=OTHER, any_tenant=True, **RESTART)
    assert (await bench.control_plane.get_operation("demo", operation_id)).tenant_id == "demo"


async def test_a_reset_instance_may_be_acted_on_again(bench):
    await bench.begin(**volume(2))
    await bench.control_plane.actions.reset(bench.instance_id)
    await bench.control_plane.actions.reset(bench.instance_id)
    assert await bench.status() == "ACTIVE"
    await bench.begin(**RESTART)


async def test_a_forced_delete_is_begun_once(bench):
    await bench.begin(**volume(2))
    actions = bench.control_plane.actions
    first = await actions.force_delete(bench.instance_id, "r1")
    assert await actions.force_delete(bench.instance_id, "r2") == first
    assert await bench.status() == "SHUTDOWN"


@pytest.mark.parametrize("instance_id", ["nope", "x" * 300, "データ"])
async def test_what_is_not_there_is_not_found(bench, instance_id):
    bench.instance_id = instance_id
    actions = bench.control_plane.actions
    for ask in (
        bench.begin(**RESTART),
        actions.reset(instance_id),
        actions.force_delete(instance_id, ""),
    ):
        with pytest.raises(errors.NotFoundError):
            await ask


# By REST.


@pytest.fixture
def control_plane() -> FakeControlPlane:
    return FakeControlPlane()


@pytest.fixture
async def instance_id(control_plane) -> str:
    created = await control_plane.create_instance(new_instance())
    control_plane.activate(created.instance.id)
    return created.instance.id


@pytest.fixture
async def client(control_plane):
    async with running_rest(control_plane) as client:
        yield client


@pytest.fixture
async def admin(control_plane):
    async with running_rest_with_admins(control_plane) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "action"),
    [
        ({"restart": {}}, "restart"),
        ({"restart": None}, "restart"),  # openstacksdk
        ({"resize": {"volume": {"size": "3"}}}, "resize_volume"),
        ({"resize": {"volume": 3}}, "resize_volume"),  # openstacksdk
        ({"resize": {"flavorRef": "2"}}, "resize_flavor"),
        ({"resize": {"flavorRef": 2}}, "resize_flavor"),
        ({"resize": {"volume": {"size": 3}, "flavorRef": "99"}}, "resize_volume"),
    ],
)
async def test_an_action_begins_and_wakes_the_task_manager(
    client, control_plane, instance_id, body, action
):
    answer = await client.send("POST", f"/instances/{instance_id}/action", body)
    assert (answer.status, answer.text) == (202, "")
    (begun,) = control_plane.actions.begun
    assert begun.WhichOneof("action") == action
    assert control_plane.woken == [list(control_plane.operations)[-1]]
    shown = await client.send("GET", f"/instances/{instance_id}")
    assert shown.json["instance"]["status"] == ("REBOOT" if action == "restart" else "RESIZE")


async def test_the_flavor_is_the_whole_one_that_was_named(client, control_plane, instance_id):
    await client.send("POST", f"/instances/{instance_id}/action", {"resize": {"flavorRef": "2"}})
    chosen = control_plane.actions.begun[0].resize_flavor.flavor
    assert (chosen.id, chosen.name, chosen.ram_mib) == ("2", "f2", 1024)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"resize": {}}, 400),
        ({"resize": {"volume": {}}}, 400),
        ({"resize": {"volume": True}}, 400),
        ({"resize": {"volume": {"size": 0}}}, 400),
        ({"resize": {"volume": {"size": 1}}}, 400),
        ({"resize": {"volume": {"size": 26}}}, 413),
        ({"resize": {"volume": 10**30}}, 413),
        ({"resize": {"flavorRef": "99"}}, 400),
        ({"resize": {"flavorRef": "1"}}, 400),
        ({"promote_to_replica_source": {}}, 400),
        ({"eject_replica_source": {}}, 400),
        ({"reset_status": {"force_delete": True}}, 403),
        ({"reset_status": {"force_delete": 1}}, 403),
    ],
)
async def test_what_cannot_be_meant_begins_nothing(
    client, control_plane, instance_id, body, status
):
    answer = await client.send("POST", f"/instances/{instance_id}/action", body)
    assert answer.status == status, answer.text
    assert control_plane.actions.begun == []
    assert control_plane.woken == []


@pytest.mark.parametrize(("body", "status"), [({"restart": {}}, 404), ({"reset_status": {}}, 403)])
async def test_another_projects_instance_is_answered_like_one_that_never_was(
    client, instance_id, body, status
):
    stranger = client.for_project(OTHER)
    answers = [
        await stranger.send("POST", f"/instances/{one}/action", body)
        for one in (instance_id, str(uuid.uuid4()))
    ]
    assert [answer.status for answer in answers] == [status, status]


async def test_one_idempotency_key_is_one_operation(client, control_plane, instance_id):
    headers = {"X-Idempotency-Key": "order-17"}
    for _ in range(2):
        answer = await client.send(
            "POST", f"/instances/{instance_id}/action", {"restart": {}}, headers=headers
        )
        assert answer.status == 202
    assert len(control_plane.actions.begun) == 1
    busy = await client.send("POST", f"/instances/{instance_id}/action", {"restart": {}})
    assert busy.status == 422
    assert "task status was REBOOTING" in busy.message


async def test_an_administrator_resets_and_deletes_by_force(admin, control_plane, instance_id):
    path = f"/instances/{instance_id}/action"
    await admin.send("POST", path, {"restart": {}})
    reset = await admin.send("POST", path, {"reset_status": {}})
    assert (reset.status, control_plane.instances[instance_id].status) == (202, "ACTIVE")
    control_plane.instances[instance_id].status = "BUILD"
    forced = await admin.send("POST", path, {"reset_status": {"force_delete": True}})
    assert (forced.status, control_plane.instances[instance_id].status) == (202, "SHUTDOWN")
    assert control_plane.woken[-1] == control_plane.instances[instance_id].operation_id


@pytest.mark.parametrize(("body", "action"), [({"stop": {}}, "stop"), ({"reboot": {}}, "restart")])
async def test_administrators_stop_and_reboot_any_projects_instance(
    admin, control_plane, instance_id, body, action
):
    answer = await admin.send("POST", f"/mgmt/instances/{instance_id}/action", body)
    assert (answer.status, answer.text) == (202, "")
    (begun,) = control_plane.actions.begun
    assert (begun.WhichOneof("action"), begun.any_tenant) == (action, True)


async def test_reset_of_the_task_frees_an_instance(admin, control_plane, instance_id):
    control_plane.instances[instance_id].status = "RESIZE"
    body = {"reset-task-status": {}}
    answer = await admin.send("POST", f"/mgmt/instances/{instance_id}/action", body)
    assert (answer.status, control_plane.instances[instance_id].status) == (202, "ACTIVE")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"migrate": {}}, 501, "not supported by the local compute driver"),
        ({"rebuild": {"image_id": "i"}}, 501, "not supported by the local compute driver"),
        ({"rebuild": {}}, 400, "'image_id' is a required property"),
        ({"foo": {}}, 400, "Invalid instance action: foo"),
        ({"stop": {}, "foo": {}}, 400, "Invalid instance action: foo"),
        ({"stop": {}, "reboot": {}}, 400, "Only one action can be specified per request."),
        ({}, 400, "Only one action can be specified per request."),
        ({"stop": None}, 400, "must be an object"),
    ],
)
async def test_administrators_actions_are_refused_with_troves_words(
    admin, instance_id, body, status, message
):
    answer = await admin.send("POST", f"/mgmt/instances/{instance_id}/action", body)
    elsewhere = await admin.send("POST", "/mgmt/instances/nope/action", body)
    assert (answer.status, message in answer.message) == (status, True), answer.text
    assert elsewhere.status == (404 if status == 501 else 400)


async def test_management_is_not_for_owners(admin, instance_id):
    owner = admin.for_project("demo")
    answer = await owner.send("POST", f"/mgmt/instances/{instance_id}/action", {"stop": {}})
    assert answer.status == 401
    assert answer.message == "User does not have admin privileges."


async def test_no_policy_lets_others_than_administrators_reset_an_instance(tmp_path):
    """The conductor resets any project's instance: a rule for everybody must not be enough."""
    policy = tmp_path / "policy.yaml"
    policy.write_text('"instance:reset_status": ""\n"instance:force_delete": ""\n')
    control_plane = FakeControlPlane()
    async with running_rest(control_plane, policy_file=policy) as owner:
        made = (await control_plane.create_instance(new_instance())).instance.id
        stranger = owner.for_project(OTHER)
        for action in ({"reset_status": {}}, {"reset_status": {"force_delete": True}}):
            for client, status in ((owner, 403), (stranger, 404)):
                answer = await client.send("POST", f"/instances/{made}/action", action)
                assert answer.status == status, answer.text
        assert control_plane.woken == []
