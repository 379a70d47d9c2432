"""What administrators read of every project's instances; fake and real conductor keep the port."""

from __future__ import annotations

import uuid

import pytest

from tests.fakes.rest_admin import ADMIN_PROJECT, running_rest_with_admins
from tests.fakes.rest_control_plane import FakeControlPlane
from tests.integration.gateway_rest.test_control_plane import fake, new_instance, real
from trove_grpc import errors
from trove_grpc.gen.conductor.v1 import management_service_pb2 as pb2

PATH = "/mgmt/instances"


@pytest.fixture(params=[fake, real])
async def control_plane(request, tmp_path):
    async with request.param(tmp_path) as control_plane:
        yield control_plane


@pytest.fixture
def kept() -> FakeControlPlane:
    return FakeControlPlane()


@pytest.fixture
async def client(kept):
    async with running_rest_with_admins(kept) as client:
        yield client


async def make(control_plane, tenant_id: str = "demo") -> str:
    created = await control_plane.create_instance(new_instance(tenant_id=tenant_id))
    return created.instance.id


async def listed(control_plane, **changes) -> list[str]:
    request = pb2.ListManagedInstancesRequest(**({"page_size": 20} | changes))
    answer = await control_plane.management.list_instances(request)
    return [item.instance.id for item in answer.instances]


async def test_every_projects_instances_are_listed_newest_first(control_plane):
    made = [await make(control_plane, tenant) for tenant in ("alpha", "beta", "alpha")]

    assert await listed(control_plane) == made[::-1]
    assert await listed(control_plane, tenant_id="alpha") == [made[2], made[0]]
    assert await listed(control_plane, tenant_id="nobody") == []


async def test_pages_are_counted(control_plane):
    made = [await make(control_plane) for _ in range(3)][::-1]
    request = pb2.ListManagedInstancesRequest(page_size=2)
    first = await control_plane.management.list_instances(request)

    assert [item.instance.id for item in first.instances] == made[:2]
    assert first.has_more
    assert await listed(control_plane, page_size=2, offset=2) == made[2:]
    assert await listed(control_plane, offset=99) == []


async def test_a_living_instance_is_told_from_a_deleted_one(control_plane):
    made = await make(control_plane)
    item = await control_plane.management.get_instance(made, include_deleted=False)

    assert not item.HasField("delete_time")
    assert (item.task, item.task_description) == ("BUILDING", "The instance is building.")
    assert (item.service_status, item.service_status_description) == ("NEW", "new")
    assert item.instance.tenant_id == "demo"
    assert await listed(control_plane, deleted=pb2.DELETED_FILTER_ONLY_DELETED) == []
    assert await listed(control_plane, deleted=pb2.DELETED_FILTER_ONLY_LIVING) == [made]


@pytest.mark.parametrize("include_deleted", [True, False])
async def test_an_instance_that_never_was_is_not_found(control_plane, include_deleted):
    with pytest.raises(errors.NotFoundError) as caught:
        await control_plane.management.get_instance(
            str(uuid.uuid4()), include_deleted=include_deleted
        )

    assert caught.value.reason == "INSTANCE_NOT_FOUND"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", PATH),
        ("GET", f"{PATH}/x"),
        ("GET", f"{PATH}/x/diagnostics"),
        ("GET", f"{PATH}/x/hwinfo"),
        ("POST", f"{PATH}/x/action"),
        ("GET", "/mgmt/clusters"),
        ("GET", "/mgmt/clusters/x"),
        ("POST", "/mgmt/clusters/x/action"),
    ],
)
async def test_management_is_refused_to_everybody_else(client, method, path):
    answer = await client.for_project("demo").send(method, path)

    assert answer.status == 401
    assert answer.json == {
        "unauthorized": {"code": 401, "message": "User does not have admin privileges."}
    }


async def test_an_administrator_sees_what_a_tenant_does_not(client, kept):
    instance = kept.instances[await make(kept)]
    kept.activate(instance.id)
    shown = (await client.send("GET", f"{PATH}/{instance.id}")).json["instance"]
    own = (await client.for_project("demo").send("GET", f"/instances/{instance.id}")).json

    assert shown["tenant_id"] == "demo"
    assert shown["server"]["id"] == shown["server_id"] == f"srv-{instance.id}"
    assert (shown["deleted"], shown["deleted_at"]) == (False, None)
    assert shown["service_status"] == "HEALTHY"
    assert shown["guest_status"] == {"state_description": "healthy"}
    assert not {"tenant_id", "server", "server_id", "volume_id"} & set(own["instance"])


async def test_an_administrator_reads_any_projects_instance_by_the_common_route(client, kept):
    made = await make(kept)
    theirs = await client.send("GET", f"/instances/{made}")
    foreign = await client.for_project("other").send("GET", f"/instances/{made}")

    assert theirs.json["instance"]["tenant_id"] == "demo"
    assert foreign.status == 404


async def test_an_administrators_own_list_has_his_project_alone(client, kept):
    await make(kept)

    own = await make(kept, ADMIN_PROJECT)
    listed = (await client.send("GET", "/instances?all_projects=true")).json["instances"]

    assert [(item["id"], item["tenant_id"]) for item in listed] == [(own, ADMIN_PROJECT)]


async def test_deleted_instances_are_shown_when_asked_for(client, kept):
    gone, alive = await make(kept), await make(kept)
    kept.management.deleted[gone] = kept.instances.pop(gone)
    ids = {
        query: [item["id"] for item in (await client.send("GET", PATH + query)).json["instances"]]
        for query in ("", "?deleted=true", "?deleted=False", "?deleted=maybe")
    }
    hidden = await client.send("GET", f"{PATH}/{gone}")
    shown = await client.send("GET", f"{PATH}/{gone}?deleted=true")

    assert ids == {
        "": [alive, gone],
        "?deleted=true": [gone],
        "?deleted=False": [alive],
        "?deleted=maybe": [alive, gone],
    }
    assert hidden.status == 404
    assert shown.json["instance"]["deleted"] is True
    assert shown.json["instance"]["server"] is None


async def test_what_no_agent_tells_is_said_to_be_so(client, kept):
    made = await make(kept)
    for what in ("diagnostics", "hwinfo"):
        refused = await client.send("GET", f"{PATH}/{made}/{what}")
        unknown = await client.send("GET", f"{PATH}/nope/{what}")
        assert (refused.status, unknown.status) == (501, 404)
        assert what in refused.message


async def test_there_are_no_clusters_to_manage(client):
    listed = await client.send("GET", "/mgmt/clusters")
    named = await client.send("GET", "/mgmt/clusters/x")
    acted = await client.send("POST", "/mgmt/clusters/x/action", {"reset-task": {}})

    assert listed.json == {"clusters": []}
    assert (named.status, acted.status) == (404, 404)


async def test_an_administrator_pings_any_projects_agent(client, kept):
    instance_id = await make(kept)
    answer = await client.send("GET", f"{PATH}/{instance_id}/rpc_ping")
    assert (answer.status, answer.text) == (204, "")
    (command,) = kept.guests.sent
    assert command.WhichOneof("action") == "ping"
    assert command.command_id.startswith("api/")

    kept.guests.failure = errors.UnavailableError("gone", reason="NO_SESSION")
    answer = await client.send("GET", f"{PATH}/{instance_id}/rpc_ping")
    assert answer.status == 503
    assert "cannot be reached" in answer.message
    stranger = await client.for_project("demo").send("GET", f"{PATH}/{instance_id}/rpc_ping")
    assert stranger.status == 401


async def test_an_administrator_sees_who_was_let_in_as_root(client, kept):
    instance_id = await make(kept)
    before = (await client.send("GET", f"{PATH}/{instance_id}")).json["instance"]
    assert (before["root_enabled"], before["root_enabled_by"]) == (None, None)
    await kept.root_history.record_enabled("demo", instance_id, "ann")
    after = (await client.send("GET", f"{PATH}/{instance_id}")).json["instance"]
    assert after["root_enabled"].startswith("20")
    assert after["root_enabled_by"] == "ann"
