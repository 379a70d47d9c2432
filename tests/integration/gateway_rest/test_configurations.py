"""Configuration groups over REST, and the contract of their port: fake and conductor keep it."""

from __future__ import annotations

import uuid

import pytest

from gateway.rest.control_plane import ControlPlane
from tests.fakes.rest_admin import running_rest_with_admins
from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_server import RestClient, running_rest
from tests.integration.gateway_rest.test_control_plane import fake, real
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import configuration_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import instance_service_pb2, resources_pb2

VALUES = [
    engine_pb2.Parameter(name="jit", boolean=False),
    engine_pb2.Parameter(name="max_connections", integer=66),
    engine_pb2.Parameter(name="random_page_cost", number=1.5),
    engine_pb2.Parameter(name="timezone", text="UTC"),
]


@pytest.fixture(params=[fake, real])
async def control_plane(request, tmp_path):
    async with request.param(tmp_path) as control_plane:
        if isinstance(control_plane, FakeControlPlane):
            for version in control_plane.datastores[0].versions:
                control_plane.configurations.seed(version.id, "postgresql")
        yield control_plane


async def create(
    control_plane: ControlPlane, tenant: str = "alpha", **changes
) -> pb2.Configuration:
    fields = {"name": "g", "values": VALUES, "datastore": "postgresql"} | changes
    return await control_plane.configurations.create(
        pb2.CreateConfigurationRequest(tenant_id=tenant, **fields)
    )


async def create_instance(control_plane: ControlPlane, **changes) -> resources_pb2.InstanceView:
    request = instance_service_pb2.CreateInstanceRequest(
        tenant_id="alpha",
        request_id=str(uuid.uuid4()),
        name="db",
        flavor=resources_pb2.Flavor(id="1", name="db.tiny", ram_mib=512),
        volume_size_gib=1,
        region="RegionOne",
        **changes,
    )
    return (await control_plane.create_instance(request)).instance


async def test_created_group_is_shown_with_typed_values_to_its_tenant_alone(control_plane):
    port = control_plane.configurations
    created = await create(control_plane, description="d")
    assert await port.get("alpha", created.id) == created
    assert list(created.values) == VALUES
    assert created.datastore_version.name == "15"
    page = await port.list_page("alpha", page_size=9, page_token="")
    assert [group.id for group in page.configurations] == [created.id]
    assert not (await port.list_page("beta", page_size=9, page_token="")).configurations
    with pytest.raises(NotFoundError):
        await port.get("beta", created.id)
    with pytest.raises(NotFoundError):
        await port.delete("beta", created.id)
    with pytest.raises(NotFoundError):
        await port.update(
            pb2.UpdateConfigurationRequest(tenant_id="beta", configuration_id=created.id)
        )


async def test_groups_come_in_pages(control_plane):
    port = control_plane.configurations
    made = {(await create(control_plane)).id for _ in range(3)}
    first = await port.list_page("alpha", page_size=2, page_token="")
    rest = await port.list_page("alpha", page_size=2, page_token=first.next_page_token)
    assert [group.id for group in (*first.configurations, *rest.configurations)] == sorted(made)
    assert rest.next_page_token == ""


async def test_values_are_joined_or_replaced(control_plane):
    port = control_plane.configurations
    group = await create(control_plane)
    request = pb2.UpdateConfigurationRequest(
        tenant_id="alpha",
        configuration_id=group.id,
        values=[engine_pb2.Parameter(name="work_mem", integer=8192)],
    )
    assert list(await port.update(request)) == []
    joined = (await port.get("alpha", group.id)).values
    assert [value.name for value in joined] == [*(value.name for value in VALUES), "work_mem"]
    request.replaces_values = True
    request.name = "h"
    await port.update(request)
    replaced = await port.get("alpha", group.id)
    assert [value.name for value in replaced.values] == ["work_mem"]
    assert replaced.name == "h"


async def test_bad_values_are_refused_before_anything_is_kept(control_plane):
    bad = [engine_pb2.Parameter(name="max_connections", text="x")]
    with pytest.raises(InvalidRequestError) as caught:
        await create(control_plane, values=bad)
    assert caught.value.reason == "CONFIGURATION_INVALID"
    group = await create(control_plane)
    with pytest.raises(InvalidRequestError):
        await control_plane.configurations.update(
            pb2.UpdateConfigurationRequest(
                tenant_id="alpha", configuration_id=group.id, values=bad, name="h"
            )
        )
    assert (await control_plane.configurations.get("alpha", group.id)).name == "g"


async def test_group_that_an_instance_has_stays(control_plane):
    port = control_plane.configurations
    group = await create(control_plane)
    instance = await create_instance(control_plane, configuration_id=group.id)
    assert instance.configuration.name == "g"
    assert (await port.get("alpha", group.id)).instance_count == 1
    having = await port.list_instances("alpha", group.id, page_size=9, page_token="")
    assert [(item.id, item.name) for item in having.instances] == [(instance.id, "db")]
    with pytest.raises(ConflictError) as caught:
        await port.delete("alpha", group.id)
    assert caught.value.reason == "CONFIGURATION_IN_USE"
    with pytest.raises(ConflictError) as caught:
        await port.attach("alpha", instance.id, group.id)
    assert caught.value.reason == "CONFIGURATION_ATTACHED"


async def test_instance_takes_a_group_of_its_own_tenant_and_version_only(control_plane):
    port = control_plane.configurations
    instance = await create_instance(control_plane)
    theirs = await create(control_plane, "beta")
    older = await create(control_plane, datastore_version="14")
    with pytest.raises(NotFoundError):
        await port.attach("alpha", instance.id, theirs.id)
    with pytest.raises(NotFoundError):
        await port.attach("beta", instance.id, theirs.id)
    with pytest.raises(NotFoundError):
        await port.detach("beta", instance.id)
    with pytest.raises(InvalidRequestError):
        await port.attach("alpha", instance.id, older.id)
    with pytest.raises(ConflictError) as caught:
        await port.attach("alpha", instance.id, (await create(control_plane)).id)
    assert caught.value.reason == "INSTANCE_BUSY"
    assert await port.detach("alpha", instance.id) == ""
    with pytest.raises(NotFoundError):
        await create_instance(control_plane, configuration_id=theirs.id)


async def test_defaults_of_an_instance_are_its_tenants_to_see(control_plane):
    instance = await create_instance(control_plane)
    values = await control_plane.configurations.defaults("alpha", instance.id)
    assert {value.name: value.integer for value in values}["max_connections"] == 64
    with pytest.raises(NotFoundError):
        await control_plane.configurations.defaults("beta", instance.id)


async def test_parameters_are_written_and_removed(control_plane):
    port = control_plane.configurations
    found = await port.list_parameters("postgresql", "15")
    names = [rule.name for rule in found.rules]
    assert names == sorted(names)
    version = found.datastore_version_id
    rule = pb2.ParameterRule(
        name="work_mem", type=pb2.PARAMETER_TYPE_INTEGER, min_value=64, max_value=128
    )
    assert await port.write_parameter(version, rule, is_new=False) == rule
    assert list((await port.list_parameters("", version, "work_mem")).rules) == [rule]
    with pytest.raises(ConflictError):
        await port.write_parameter(version, rule, is_new=True)
    await port.delete_parameter(version, "work_mem")
    with pytest.raises(InvalidRequestError):
        await port.delete_parameter(version, "work_mem")
    with pytest.raises(InvalidRequestError):
        await port.write_parameter(version, rule, is_new=False)
    with pytest.raises(NotFoundError):
        await port.list_parameters("postgresql", "15", "work_mem")
    with pytest.raises(NotFoundError):
        await port.list_parameters("postgresql", "nope")


@pytest.fixture
async def rest_plane():
    plane = FakeControlPlane()
    plane.configurations.seed(plane.datastores[0].versions[0].id, "postgresql")
    return plane


@pytest.fixture
async def client(rest_plane):
    async with running_rest(rest_plane) as client:
        yield client


async def post_group(client: RestClient, values: dict | None = None) -> str:
    body = {"configuration": {"name": "g", "values": values or {"work_mem": 8192}}}
    answer = await client.send("POST", "/configurations", body)
    assert answer.status == 200, answer.text
    return answer.json["configuration"]["id"]


async def post_instance(client: RestClient, plane: FakeControlPlane, **fields) -> str:
    body = {"instance": {"name": "db", "flavorRef": "1", "volume": {"size": 1}, **fields}}
    answer = await client.send("POST", "/instances", body)
    assert answer.status == 200, answer.text
    instance_id = answer.json["instance"]["id"]
    plane.activate(instance_id)
    return instance_id


async def test_attach_and_detach_wake_the_task_manager(client, rest_plane):
    group, instance = await post_group(client), await post_instance(client, rest_plane)
    path = f"/instances/{instance}"
    rest_plane.woken.clear()
    attached = await client.send("PUT", path, {"instance": {"configuration": group}})
    shown = await client.send("GET", path)
    again = await client.send("PUT", path, {"instance": {"configuration": group}})
    having = await client.send("GET", f"/configurations/{group}/instances")
    assert (attached.status, attached.text) == (202, "")
    assert shown.json["instance"]["configuration"]["id"] == group
    assert again.status == 400
    assert again.message == (
        f"Instance {instance} already has a Configuration Group attached: {group}."
    )
    assert having.json == {"instances": [{"id": instance, "name": "db"}]}
    changed = await client.send(
        "PATCH", f"/configurations/{group}", {"configuration": {"values": {"jit": False}}}
    )
    detached = await client.send("PUT", path, {"instance": {}})
    assert (changed.status, detached.status) == (200, 202)
    assert len(rest_plane.woken) == 3
    for nothing in ({}, {"configuration": None}):
        answer = await client.send("PUT", path, {"instance": nothing})
        assert answer.status == 202
    assert len(rest_plane.woken) == 3
    assert "configuration" not in (await client.send("GET", path)).json["instance"]


async def test_patch_attaches_and_detaches_as_openstacksdk_does(client, rest_plane):
    group, instance = await post_group(client), await post_instance(client, rest_plane)
    for value in (group, None):
        answer = await client.send(
            "PATCH", f"/instances/{instance}", {"instance": {"configuration": value}}
        )
        assert answer.status == 202, answer.text


async def test_renaming_detaches_nothing(client, rest_plane):
    group = await post_group(client)
    instance = await post_instance(client, rest_plane, configuration=group)
    await client.send("PUT", f"/instances/{instance}", {"instance": {"name": "other"}})
    shown = (await client.send("GET", f"/instances/{instance}")).json["instance"]
    assert (shown["name"], shown["configuration"]["id"]) == ("other", group)


async def test_name_and_configuration_change_together_and_nothing_else_does(client, rest_plane):
    group, instance = await post_group(client), await post_instance(client, rest_plane)
    body = {"instance": {"configuration": group, "access": {}}}
    refused = await client.send("PUT", f"/instances/{instance}", body)
    assert refused.message == "Only one attribute (except 'name') is allowed to update."
    body = {"instance": {"configuration": group, "name": "other"}}
    assert (await client.send("PUT", f"/instances/{instance}", body)).status == 202


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"work_mem": 8192.5}, 422),
        ({"work_mem": True}, 422),
        ({"work_mem": 2**70}, 400),
        ({"work_mem": None}, 400),
        ({"work_mem": [1]}, 400),
        ({"work_mem": {"a": 1}}, 400),
        ({"timezone": "UTC\nport = 1"}, 400),
        ({"timezone": "it's"}, 422),
        ({"a\nb": 1}, 400),
        ({"": 1}, 422),
        ([], 400),
        ("x", 400),
    ],
)
async def test_values_that_cannot_be_are_refused(client, values, status):
    body = {"configuration": {"name": "g", "values": values}}
    answer = await client.send("POST", "/configurations", body)
    assert answer.status == status, answer.text


async def test_put_needs_values_and_patch_does_not(client):
    path = f"/configurations/{await post_group(client)}"
    body = {"configuration": {"name": "h"}}
    assert (await client.send("PUT", path, body)).status == 400
    assert (await client.send("PATCH", path, body)).status == 200
    assert (await client.send("GET", path)).json["configuration"]["name"] == "h"


async def test_next_page_is_linked(client):
    for _ in range(3):
        await post_group(client)
    first = (await client.send("GET", "/configurations?limit=2")).json
    assert len(first["configurations"]) == 2
    assert first["links"][0]["rel"] == "next"
    assert f"marker={first['configurations'][-1]['id']}" in first["links"][0]["href"]


async def test_defaults_are_shown_by_name(client, rest_plane):
    instance = await post_instance(client, rest_plane)
    answer = await client.send("GET", f"/instances/{instance}/configuration")
    assert answer.json == {"instance": {"configuration": {"max_connections": 64}}}
    assert (await client.send("GET", "/instances/x/configuration")).status == 404


async def test_parameters_are_administrators_to_write(rest_plane):
    version = rest_plane.datastores[0].versions[0].id
    path = f"/mgmt/datastores/versions/{version}/parameters"
    body = {
        "configuration-parameter": {
            "name": "x",
            "restart_required": 1,
            "data_type": "integer",
            "max_size": "9",
            "min_size": -1,
        }
    }
    async with running_rest_with_admins(rest_plane) as admin:
        user = admin.for_project("demo")
        for method, where in (
            ("GET", path),
            ("POST", path),
            ("GET", f"{path}/x"),
            ("PUT", f"{path}/x"),
            ("DELETE", f"{path}/x"),
        ):
            assert (await user.send(method, where, body)).status == 401, (method, where)
        created = await admin.send("POST", path, body)
        assert (created.json["max_size"], created.json["min_size"]) == (9, -1)
        assert created.json["restart_required"] is True
        shown = await user.send("GET", f"/datastores/versions/{version}/parameters/x")
        assert (shown.json["max"], shown.json["min"]) == (9, -1)
        assert (await admin.send("DELETE", f"{path}/x")).status == 204
        assert (await admin.send("GET", f"{path}/x")).status == 404
        for change in (
            {"max_size": None},
            {"max_size": "x"},
            {"max_size": -2},
            {"restart_required": "yes"},
            {"restart_required": None},
            {"data_type": "list"},
            {"name": "a b"},
        ):
            bad = {"configuration-parameter": body["configuration-parameter"] | change}
            assert (await admin.send("POST", path, bad)).status == 400, change
