"""ETags, conditional requests and protection from deletion, over REST."""

from __future__ import annotations

import pytest

from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_server import running_rest

NEW = {"name": "i1", "flavorRef": "1", "volume": {"size": 1}}


@pytest.fixture
def control_plane() -> FakeControlPlane:
    return FakeControlPlane()


@pytest.fixture
async def client(control_plane):
    async with running_rest(control_plane) as client:
        yield client


async def create(client, control_plane, **changes) -> str:
    created = await client.send("POST", "/instances", {"instance": NEW | changes})
    assert created.status == 200, created.text
    instance_id = created.json["instance"]["id"]
    control_plane.activate(instance_id)
    return f"/instances/{instance_id}"


async def tag_of(client, path: str) -> str:
    return (await client.send("GET", path)).headers["Etag"]


async def test_client_that_has_the_answer_gets_304_until_anything_in_it_changes(
    client, control_plane
):
    path = await create(client, control_plane)
    shown = await client.send("GET", path)
    tag = shown.headers["Etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await client.send("GET", path, headers={"If-None-Match": known})
        assert (again.status, again.text, again.headers["Etag"]) == (304, "", tag)
    (instance,) = control_plane.instances.values()
    instance.operating_status = "ERROR"  # nothing of the record, but seen
    again = await client.send("GET", path, headers={"If-None-Match": tag})
    assert (again.status, again.json["instance"]["operating_status"]) == (200, "ERROR")


async def test_change_of_what_was_seen_is_made_and_of_what_was_not_is_refused(
    client, control_plane
):
    path = await create(client, control_plane)
    tag = await tag_of(client, path)
    (instance,) = control_plane.instances.values()
    instance.operating_status = "ERROR"  # a report must not stop a change
    renamed = await client.send(
        "PUT", path, {"instance": {"name": "i2"}}, headers={"If-Match": tag}
    )
    assert renamed.status == 202
    for method, body in (
        ("PUT", {"instance": {"name": "i3"}}),
        ("PATCH", {"instance": {"name": "i3"}}),
        ("PUT", {"instance": {}}),
        ("PUT", {"instance": {"deletion_protection": True}}),
        ("DELETE", None),
    ):
        refused = await client.send(method, path, body, headers={"If-Match": tag})
        assert (refused.status, *refused.json) == (412, "preconditionFailed")
    shown = (await client.send("GET", path)).json["instance"]
    assert (shown["name"], shown["status"]) == ("i2", "ACTIVE")
    new = await tag_of(client, path)
    gone = await client.send("DELETE", path, headers={"If-Match": f"{tag}, {new}"})
    assert gone.status == 202


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("*", 202),
        ('"of-somebody-else"', 412),
        ('W/"1-00000000000000000000000000000000"', 412),
        ("1-00000000000000000000000000000000", 400),
        ('"un"terminated', 400),
        ("", 400),
        (", ".join(['"a"'] * 51), 400),
        (f'"{"9" * 5000}-{"0" * 32}"', 412),
    ],
    ids=["any", "foreign", "weak", "bare", "broken", "empty", "many", "huge"],
)
async def test_condition_that_cannot_be_met_or_read_stops_the_change(
    client, control_plane, condition, status
):
    path = await create(client, control_plane)
    answer = await client.send(
        "PUT", path, {"instance": {"name": "i2"}}, headers={"If-Match": condition}
    )
    assert answer.status == status, answer.text
    name = (await client.send("GET", path)).json["instance"]["name"]
    assert name == ("i2" if status == 202 else "i1")


async def test_condition_tells_nothing_of_another_projects_instance(client, control_plane):
    path = await create(client, control_plane)
    tag = await tag_of(client, path)
    for condition in (tag, "*"):
        answer = await client.for_project("other").send(
            "DELETE", path, headers={"If-Match": condition}
        )
        assert answer.status == 404


async def test_protected_instance_says_so_and_how_to_lift_it(client, control_plane):
    path = await create(client, control_plane, deletion_protection=True)
    assert (await client.send("GET", path)).json["instance"]["deletion_protection"] is True
    refused = await client.send("DELETE", path)
    assert (refused.status, *refused.json) == (409, "conflict")
    assert (await client.send("GET", path)).json["instance"]["status"] == "ACTIVE"
    lifted = await client.send("PUT", path, {"instance": {"deletion_protection": False}})
    assert lifted.status == 202
    assert "deletion_protection" not in (await client.send("GET", path)).json["instance"]
    assert (await client.send("DELETE", path)).status == 202


async def test_protection_is_set_beside_a_name_by_put_and_patch(client, control_plane):
    path = await create(client, control_plane)
    for method, name in (("PUT", "i2"), ("PATCH", "i3")):
        body = {"instance": {"name": name, "deletion_protection": True}}
        assert (await client.send(method, path, body)).status == 202
        shown = (await client.send("GET", path)).json["instance"]
        assert (shown["name"], shown["deletion_protection"]) == (name, True)


@pytest.mark.parametrize("value", ["yes", 1, None])
async def test_protection_is_true_or_false(client, control_plane, value):
    path = await create(client, control_plane)
    change = {"instance": {"deletion_protection": value}}
    assert (await client.send("PUT", path, change)).status == 400
    created = await client.send(
        "POST", "/instances", {"instance": NEW | {"deletion_protection": value}}
    )
    assert created.status == 400
