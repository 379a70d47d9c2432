"""Administering datastores over REST; the fake and a real conductor keep its port's contract."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.rest.ports.datastores import DatastoreAdministration
from tests.fakes.rest_admin import running_rest_with_admins
from tests.fakes.rest_control_plane import FakeControlPlane, build_datastore
from tests.fakes.rest_server import running_rest
from tests.integration.gateway_rest.test_control_plane import fake, new_instance, real
from trove_grpc import errors
from trove_grpc.gen.conductor.v1 import resources_pb2

VERSION: dict[str, Any] = {
    "name": "8.0",
    "datastore_name": "mysql",
    "datastore_manager": "mysql",
    "active": True,
    "image_tags": ["trove", "mysql"],
}


@pytest.fixture(params=[fake, real])
async def control_plane(request, tmp_path):
    async with request.param(tmp_path) as control_plane:
        yield control_plane


@pytest.fixture
def administration(control_plane) -> DatastoreAdministration:
    return control_plane.datastore_administration


@pytest.fixture
def kept() -> FakeControlPlane:
    datastore = build_datastore("postgresql", [("15", "15", True), ("14", "14", False)])
    return FakeControlPlane([datastore])


@pytest.fixture
async def client(kept):
    async with running_rest_with_admins(kept) as client:
        yield client


def a_version(**changes) -> resources_pb2.DatastoreVersion:
    return resources_pb2.DatastoreVersion(
        **{
            "datastore_name": "mysql",
            "name": "8.0",
            "manager": "mysql",
            "is_active": True,
            "image_tags": ["trove"],
        }
        | changes
    )


async def add(administration, **changes) -> resources_pb2.DatastoreVersion:
    version = a_version(**changes)
    await administration.create_version(version)
    return next(
        item
        for item in await administration.list_versions()
        if (item.datastore_name, item.name) == (version.datastore_name, version.name)
    )


async def test_created_version_is_listed_with_its_datastore(administration):
    added = await add(administration, is_default=True, packages=["p"], registry_ext="x.Y")

    assert (added.version, added.manager, added.is_default) == ("8.0", "mysql", True)
    assert (list(added.packages), added.registry_ext) == (["p"], "x.Y")
    assert await administration.get_version(added.id) == added
    datastore = await administration.get_datastore("mysql")
    assert datastore.default_version_id == added.id
    assert [item.name for item in await administration.list_datastores()] == [
        "mysql",
        "postgresql",
    ]


async def test_the_same_name_and_number_twice_is_refused(administration):
    await add(administration)
    with pytest.raises(errors.AlreadyExistsError) as caught:
        await administration.create_version(a_version())

    assert caught.value.reason == "DATASTORE_VERSION_EXISTS"
    assert caught.value.message == "The datastore version '8.0(8.0)' already exists."


@pytest.mark.parametrize("changes", [{"image_tags": []}, {"manager": "oracle"}])
async def test_a_version_without_image_or_with_an_unknown_engine_is_refused(
    administration, changes
):
    with pytest.raises(errors.InvalidRequestError):
        await administration.create_version(a_version(**changes))


async def test_a_change_touches_the_fields_named(administration):
    added = await add(administration, packages=["p"])
    await administration.update_version(
        resources_pb2.DatastoreVersion(id=added.id, is_active=False, image_id="image-1"),
        ["is_active", "image_id"],
    )

    changed = await administration.get_version(added.id)
    assert (changed.is_active, changed.image_id) == (False, "image-1")
    assert (changed.name, list(changed.packages), list(changed.image_tags)) == (
        "8.0",
        ["p"],
        ["trove"],
    )


async def test_an_inactive_version_is_hidden_from_tenants(control_plane, administration):
    await add(administration, is_active=False)

    assert [item.name for item in await control_plane.list_datastores()] == ["postgresql"]
    assert list((await control_plane.get_datastore("mysql")).versions) == []
    assert [item.name for item in (await administration.get_datastore("mysql")).versions] == [
        "8.0"
    ]


async def test_unknown_versions_and_names_of_versions_are_not_found(administration):
    nothing = resources_pb2.DatastoreVersion(id="nope", is_active=True)
    for attempt in (
        administration.get_version("nope"),
        administration.get_version("15"),
        administration.update_version(nothing, ["is_active"]),
        administration.delete_version("nope"),
    ):
        with pytest.raises(errors.NotFoundError) as caught:
            await attempt
        assert caught.value.reason == "DATASTORE_VERSION_NOT_FOUND"


async def test_a_version_in_use_and_a_datastore_with_versions_stay(control_plane, administration):
    added = await add(administration)
    await control_plane.create_instance(
        new_instance(datastore="mysql", datastore_version=added.id)
    )
    with pytest.raises(errors.ConflictError) as version:
        await administration.delete_version(added.id)
    with pytest.raises(errors.ConflictError) as datastore:
        await administration.delete_datastore("mysql")

    assert version.value.message == "Datastore version is in use by instance."
    assert datastore.value.message == "Datastore versions exist for datastore mysql."


async def test_a_version_goes_and_then_its_datastore(administration):
    added = await add(administration)
    await administration.delete_version(added.id)
    await administration.delete_datastore("mysql")

    with pytest.raises(errors.NotFoundError):
        await administration.get_datastore("mysql")


async def test_versions_are_administrators_business(client):
    others = client.for_project("demo")
    answers = [
        await others.send(method, path, body)
        for method, path, body in (
            ("GET", "/mgmt/datastore-versions", None),
            ("GET", "/mgmt/datastore-versions/nope", None),
            ("POST", "/mgmt/datastore-versions", {"nonsense": 1}),
            ("PATCH", "/mgmt/datastore-versions/nope", {"nonsense": 1}),
            ("DELETE", "/mgmt/datastore-versions/nope", None),
        )
    ]
    refused = await others.send("DELETE", "/datastores/postgresql")

    assert {answer.status for answer in answers} == {401}
    assert {answer.message for answer in answers} == {"User does not have admin privileges."}
    assert refused.status == 403
    assert refused.message == "Policy doesn't allow datastore:delete to be performed."


async def test_nobody_is_an_administrator_without_authentication(kept):
    async with running_rest(kept) as client:
        answer = await client.send("GET", "/mgmt/datastore-versions")

    assert answer.status == 401


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"foo": 1}, 400, "'foo' was unexpected"),
        ({"name": ""}, 400, "must not be empty"),
        ({"name": "x" * 101}, 400, "longer than 100"),
        ({"active": "true"}, 400, "must be true or false"),
        ({"image_tags": ["a"] * 6}, 400, "at most 5"),
        ({"image_tags": ["a" * 21]}, 400, "1 to 20 characters"),
        ({"image_tags": "trove"}, 400, "must be an array"),
        ({"packages": [1]}, 400, "must be a string"),
        ({"image_tags": [], "image": ""}, 400, "Image must be specified."),
        ({"datastore_manager": "oracle"}, 400, "unknown"),
        ({"image_tags": [], "image": "image-1"}, 202, ""),
        ({"version": "8.0.36", "default": True, "packages": []}, 202, ""),
    ],
)
async def test_a_new_versions_body_is_checked(client, changes, status, message):
    body = {"version": VERSION | changes}
    answer = await client.send("POST", "/mgmt/datastore-versions", body)

    assert answer.status == status, answer.text
    assert message in (answer.text if status == 202 else answer.message)
    assert bool(answer.text) == (status == 400)


@pytest.mark.parametrize("missing", ["name", "datastore_name", "datastore_manager", "active"])
async def test_a_new_version_has_its_required_fields(client, missing):
    body = {"version": {name: value for name, value in VERSION.items() if name != missing}}
    answer = await client.send("POST", "/mgmt/datastore-versions", body)

    assert (answer.status, missing in answer.message) == (400, True)


async def test_a_patch_is_the_version_itself(client, kept):
    version_id = kept.datastores[0].versions[1].id
    path = f"/mgmt/datastore-versions/{version_id}"
    accepted = await client.send(
        "PATCH", path, {"active": True, "image": "image-1", "name": "14-lts"}
    )
    shown = (await client.send("GET", path)).json["version"]
    wrapped = await client.send("PATCH", path, {"version": {"active": False}})

    assert (accepted.status, accepted.text) == (202, "")
    assert (shown["active"], shown["image"], shown["name"]) == (True, "image-1", "14-lts")
    assert (shown["packages"], shown["image_tags"], shown["default"]) == ([""], [""], False)
    assert wrapped.status == 400


async def test_administrators_see_inactive_versions_and_more_of_each(client):
    others = client.for_project("demo")
    for path, root in (("/datastores", "datastores"), ("/datastores/postgresql", "datastore")):
        seen = (await client.send("GET", path)).json[root]
        hidden = (await others.send("GET", path)).json[root]
        if root == "datastores":
            (seen,), (hidden,) = seen, hidden
        assert [version["name"] for version in seen["versions"]] == ["15", "14"]
        assert [version["name"] for version in hidden["versions"]] == ["15"]
        assert seen["versions"][1]["active"] is False
        assert "active" not in hidden["versions"][0]
    path = "/datastores/postgresql/versions"
    listed = (await client.send("GET", path)).json["versions"]
    offered = (await others.send("GET", path)).json["versions"]
    shown = (await others.send("GET", "/datastores/postgresql/versions/15")).json["version"]
    assert {version["active"] for version in listed} == {True, False}
    assert [version["name"] for version in offered] == ["15"]
    assert set(shown) == {"id", "name", "version", "links", "datastore"}
