"""What the instance routes do, seen from outside."""

from __future__ import annotations

import hashlib
import logging
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.rest.passwords import scram_sha_256_verifier
from tests.fakes.rest_control_plane import FakeControlPlane, build_datastore
from tests.fakes.rest_server import running_rest
from trove_grpc import errors
from trove_grpc.gen.conductor.v1 import resources_pb2

PASSWORD = "canary-Pa55word"
INSTANCE: dict[str, Any] = {
    "name": "i1",
    "flavorRef": "1",
    "volume": {"size": 2},
    "datastore": {"type": "postgresql"},
}


@pytest.fixture
def control_plane() -> FakeControlPlane:
    return FakeControlPlane()


@pytest.fixture
async def client(control_plane):
    async with running_rest(control_plane) as client:
        yield client


async def create(client, headers=None, **changes: Any):
    body = {"instance": INSTANCE | changes}
    return await client.send("POST", "/instances", body, headers=headers)


async def test_create_starts_the_operation_it_wrote(client, control_plane):
    answer = await create(client)

    instance = control_plane.instances[answer.json["instance"]["id"]]
    assert answer.status == 200
    assert control_plane.woken == [instance.operation_id]


async def test_repeated_create_with_one_key_makes_one_instance(client, control_plane):
    headers = {"X-Idempotency-Key": "order-17"}
    first = await create(client, headers=headers)
    second = await create(client, headers=headers)
    third = await create(client)

    ids = [answer.json["instance"]["id"] for answer in (first, second, third)]
    assert ids[0] == ids[1] != ids[2]
    assert len(control_plane.created) == 2


async def test_password_goes_no_further_than_its_verifier(client, control_plane, caplog):
    caplog.set_level(logging.DEBUG)
    users = [{"name": "ada", "password": PASSWORD, "databases": [{"name": "app"}]}]
    answer = await create(client, users=users, databases=[{"name": "app"}])

    (request,) = control_plane.created
    assert request.users[0].verifier.startswith("SCRAM-SHA-256$4096:")
    assert list(request.users[0].databases) == ["app"]
    assert PASSWORD.encode() not in request.SerializeToString()
    assert PASSWORD not in answer.text
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(
    ("character_set", "collate"),
    [("utf8", "C.UTF-8"), ("UTF-8", "de_DE.UTF-8@euro"), ("SQL_ASCII", "C"), (None, None)],
)
async def test_character_set_and_collation_of_the_engine_are_passed_on(
    client, control_plane, character_set, collate
):
    database = {"name": "app", "character_set": character_set, "collate": collate}
    answer = await create(client, databases=[database])

    assert answer.status == 200, answer.text
    sent = control_plane.created[0].databases[0]
    assert (sent.character_set, sent.collation) == (character_set or "", collate or "")


async def test_flavor_may_be_named_as_openstacksdk_does(client, control_plane):
    named = {"name": "sdk", "flavor": "2", "volume": {"size": 1}}
    answer = await client.send("POST", "/instances", {"instance": named})
    assert answer.status == 200
    assert control_plane.created[0].flavor.id == "2"


async def test_flavor_travels_with_its_sizes(client, control_plane):
    await create(client, flavorRef="http://host/v1.0/demo/flavors/2")

    flavor = control_plane.created[0].flavor
    assert (flavor.id, flavor.name, flavor.ram_mib) == ("2", "f2", 1024)


async def test_version_number_tells_versions_of_one_name_apart():
    datastore = build_datastore("postgresql", [("15", "15.17", True), ("16", "16.1", True)])
    control_plane = FakeControlPlane([datastore])
    async with running_rest(control_plane) as client:
        found = await create(client, datastore={"type": "postgresql", "version_number": "16.1"})
        missing = await create(client, datastore={"version": "15", "version_number": "9"})

    assert found.json["instance"]["datastore"]["version_number"] == "16.1"
    assert missing.status == 400


async def test_users_on_an_engine_without_rules_are_refused():
    control_plane = FakeControlPlane([build_datastore("couch", [("3", "3", True)], "couch")])
    async with running_rest(control_plane) as client:
        users = [{"name": "ada", "password": PASSWORD}]
        refused = await create(client, datastore={"type": "couch"}, users=users)
        plain = await create(client, datastore={"type": "couch"})

    assert (refused.status, plain.status) == (501, 200)


async def test_redis_has_users_and_no_databases_by_name():
    control_plane = FakeControlPlane([build_datastore("redis", [("7.0", "7.0", True)], "redis")])
    redis = {"type": "redis"}
    async with running_rest(control_plane) as client:
        user = {"name": "ada", "password": PASSWORD}
        refused = await create(client, datastore=redis, databases=[{"name": "shop"}])
        spaced = await create(client, datastore=redis, users=[{**user, "name": "a b"}])
        reserved = await create(client, datastore=redis, users=[{**user, "name": "default"}])
        made = await create(client, datastore=redis, users=[user])

    assert refused.status == 501
    assert "databases" in refused.json["notImplemented"]["message"]
    assert (spaced.status, reserved.status, made.status) == (400, 400, 200)
    (request,) = control_plane.created
    assert request.users[0].verifier == "#" + hashlib.sha256(PASSWORD.encode()).hexdigest()


async def test_pages_are_linked_until_the_last(client):
    for _ in range(5):
        await create(client)

    seen: list[str] = []
    path = "/instances?limit=2"
    while path:
        page = (await client.send("GET", path)).json
        seen += [instance["id"] for instance in page["instances"]]
        (link,) = page.get("links", [{"href": ""}])
        path = f"/instances?{urlsplit(link['href']).query}" if link["href"] else ""

    assert len(seen) == 5
    assert seen == sorted(seen)


async def test_page_is_never_larger_than_troves(client):
    for _ in range(21):
        await create(client)

    page = (await client.send("GET", "/instances?limit=1000")).json
    query = parse_qs(urlsplit(page["links"][0]["href"]).query)

    assert len(page["instances"]) == 20
    assert query["limit"] == ["20"]


async def test_another_projects_instance_is_not_found(client):
    instance_id = (await create(client)).json["instance"]["id"]
    other = client.for_project("other")

    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/operations"),
        ("GET", "/users"),
        ("GET", "/backups"),
    ):
        answer = await other.send(method, f"/instances/{instance_id}{path}")
        assert answer.status == 404, (method, path)
    assert (await other.send("GET", "/instances")).json == {"instances": []}


async def test_rename_shows_at_once(client):
    instance_id = (await create(client)).json["instance"]["id"]
    for method, name in (("PUT", "second"), ("PATCH", "third")):
        changed = await client.send(
            method, f"/instances/{instance_id}", {"instance": {"name": name}}
        )
        shown = await client.send("GET", f"/instances/{instance_id}")

        assert (changed.status, changed.text) == (202, "")
        assert shown.json["instance"]["name"] == name


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"access": {"is_public": True}}, 501),
        ({"access": {"is_public": 7}}, 400),
        ({"datastore_version": "15"}, 501),
        ({"datastore_version": ""}, 400),
        ({"replica_of": "x"}, 501),
        ({"configuration": "x"}, 404),
        ({"configuration": {}}, 400),
        ({"name": None}, 400),
        ({"name": "new", "access": {}}, 501),
    ],
)
async def test_change_that_cannot_be_made_changes_nothing(client, change, status):
    instance_id = (await create(client)).json["instance"]["id"]
    answer = await client.send("PUT", f"/instances/{instance_id}", {"instance": change})
    shown = await client.send("GET", f"/instances/{instance_id}")

    assert answer.status == status, answer.text
    assert shown.json["instance"]["name"] == "i1"


async def test_fault_and_reason_are_shown(client, control_plane):
    instance_id = (await create(client)).json["instance"]["id"]
    instance = control_plane.instances[instance_id]
    instance.status = "ERROR"
    instance.operating_status_reason = "silent for 95 s"
    instance.fault.message = "the guest never called home"
    instance.fault.details = "step await_agent; look at trovectl events"

    shown = (await client.send("GET", f"/instances/{instance_id}")).json["instance"]

    assert shown["operating_status_reason"] == "silent for 95 s"
    assert shown["fault"]["message"] == "the guest never called home"
    assert "trovectl events" in shown["fault"]["details"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", shown["fault"]["created"])


async def test_operation_shows_its_steps(client, control_plane):
    instance_id = (await create(client)).json["instance"]["id"]
    (operation,) = control_plane.operations.values()
    operation.steps.add(name="boot_guest", state=resources_pb2.STEP_STATE_RUNNING)

    listed = await client.send("GET", f"/instances/{instance_id}/operations")
    shown = await client.send("GET", f"/operations/{operation.id}")
    absent = await client.send("GET", "/instances/nope/operations")

    assert listed.json["operations"] == [shown.json["operation"]]
    assert shown.json["operation"]["state"] == "RUNNING"
    assert shown.json["operation"]["steps"] == [{"name": "boot_guest", "state": "RUNNING"}]
    assert absent.status == 404


async def test_delete_is_accepted_again_while_it_goes_on(client, control_plane):
    instance_id = (await create(client)).json["instance"]["id"]
    building = await client.send("DELETE", f"/instances/{instance_id}")
    control_plane.activate(instance_id)
    deleted = await client.send("DELETE", f"/instances/{instance_id}")
    again = await client.send("DELETE", f"/instances/{instance_id}")

    assert (building.status, deleted.status, again.status) == (422, 202, 202)
    assert len(control_plane.operations) == 2


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (errors.UnavailableError("the conductor is away"), 503),
        (errors.OverloadedError("busy"), 503),
        (errors.DeadlineError("late"), 504),
        (errors.StaleError("lost a race"), 409),
        (errors.QuotaExceededError("Quota exceeded for resources: ['volumes']."), 413),
        (errors.ConflictError("no", reason="INSTANCE_BUSY"), 422),
    ],
)
async def test_failure_behind_the_api_gets_its_code(client, control_plane, failure, status):
    control_plane.fail(failure)
    answer = await client.send("GET", "/instances")

    assert answer.status == status
    assert answer.message == failure.message
    assert ("Retry-After" in answer.headers) is (status == 503)


@pytest.mark.parametrize("failure", [ValueError("secret detail"), errors.TroveError("internal")])
async def test_unforeseen_failure_leaks_nothing_but_an_id(client, control_plane, failure):
    control_plane.fail(failure)
    answer = await client.send("GET", "/instances")

    assert answer.status == 500
    assert "secret detail" not in answer.text
    assert f"({answer.headers['X-OpenStack-Request-Id']})" in answer.message


async def test_links_use_the_public_endpoint_where_there_is_one(control_plane):
    async with running_rest(control_plane, public_endpoint="https://db.example:443/") as client:
        created = await create(client)
        version = await client.send("GET", client.root + "/")

    assert created.json["instance"]["links"][0]["href"].startswith(
        "https://db.example:443/v1.0/demo/instances/"
    )
    assert version.json["versions"][0]["links"][0]["href"] == "https://db.example:443/v1.0/"


async def test_versions_and_health_need_no_project(client):
    root = await client.send("GET", client.root + "/")
    version = await client.send("GET", client.root + "/v1.0")
    slashed = await client.send("GET", client.root + "/v1.0/")
    health = await client.send("GET", client.root + "/healthcheck")

    assert root.json["versions"] == [version.json["version"]]
    assert version.json == slashed.json
    assert (health.status, health.text) == (200, "OK")


async def test_passwords_of_equal_text_get_unlike_verifiers():
    assert scram_sha_256_verifier(PASSWORD) != scram_sha_256_verifier(PASSWORD)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/backups", 200),
        ("GET", "/clusters", 200),
        ("GET", "/configurations", 200),
        ("GET", "/modules", 200),
        ("GET", "/backup_strategies", 200),
        ("GET", "/backups/x", 404),
        ("DELETE", "/backups/x", 404),
        ("GET", "/configurations/x", 404),
        ("GET", "/configurations/x/instances", 404),
        ("DELETE", "/modules/x", 404),
        ("POST", "/backups", 501),
        ("GET", "/mgmt/instances", 401),
        ("POST", "/mgmt/instances/x/action", 401),
        ("GET", "/datastores/postgresql/versions/15/parameters", 200),
        ("GET", "/datastores/postgresql/versions/nope/parameters", 400),
    ],
)
async def test_what_is_not_there_yet_answers_as_trove_would(client, method, path, status):
    answer = await client.send(method, path, {} if method == "POST" else None)

    assert answer.status == status, answer.text


@pytest.mark.parametrize(
    ("method", "part"),
    [
        ("POST", "log"),
        ("GET", "ssl"),
        ("POST", "modules"),
    ],
)
async def test_part_of_an_instance_is_501_once_it_runs(client, control_plane, method, part):
    instance_id = (await create(client)).json["instance"]["id"]
    building = await client.send(method, f"/instances/{instance_id}/{part}")
    control_plane.activate(instance_id)
    running = await client.send(method, f"/instances/{instance_id}/{part}")

    assert (building.status, running.status) == (422, 501)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"restart": ""}, 400),
        ({"restart": {}, "resize": {}}, 400),
        ({"explode": {}}, 400),
        ({"reset_status": {}}, 403),
        ([], 400),
    ],
)
async def test_actions_are_named_one_at_a_time(client, body, status):
    instance_id = (await create(client)).json["instance"]["id"]
    answer = await client.send("POST", f"/instances/{instance_id}/action", body)

    assert answer.status == status, answer.text
