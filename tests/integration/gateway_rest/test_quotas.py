"""Quotas over REST, and the contract of their port: the fake and a real conductor keep it."""

from __future__ import annotations

import pytest

from tests.fakes.rest_admin import ADMIN_PROJECT, running_rest_with_admins
from tests.fakes.rest_control_plane import FakeControlPlane
from tests.integration.gateway_rest.test_control_plane import fake, new_instance, real
from trove_grpc.errors import InvalidRequestError, NotFoundError, QuotaExceededError


@pytest.fixture(params=[fake, real])
async def control_plane(request, tmp_path):
    async with request.param(tmp_path) as control_plane:
        yield control_plane


@pytest.fixture
async def admin():
    async with running_rest_with_admins(FakeControlPlane()) as client:
        yield client


async def limits(control_plane, tenant: str = "demo") -> dict[str, int]:
    return {item.resource: item.limit for item in await control_plane.get_quota(tenant)}


async def test_set_limits_stand_and_the_others_stay(control_plane):
    before = await limits(control_plane)
    await control_plane.quotas.set_limits("demo", {"instances": 1, "backups": -1})
    await control_plane.quotas.set_limits("demo", {"instances": 1})
    assert await limits(control_plane) == before | {"instances": 1, "backups": -1}
    assert await limits(control_plane, "other") == before


async def test_lowered_limit_refuses_creates_and_of_no_other_tenant(control_plane):
    await control_plane.create_instance(new_instance())
    await control_plane.quotas.set_limits("demo", {"instances": 1})
    with pytest.raises(QuotaExceededError):
        await control_plane.create_instance(new_instance())
    await control_plane.create_instance(new_instance(tenant_id="other"))
    await control_plane.quotas.set_limits("demo", {"instances": 2})
    await control_plane.create_instance(new_instance())


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"instances": 5, "foo": 20}, NotFoundError, "Unknown quota resources foo."),
        (
            {"volumes": 5, "instances": -2},
            InvalidRequestError,
            "Quota limit '-2' for 'instances' is too small - must be at least '-1'.",
        ),
        ({}, InvalidRequestError, "at least one"),
    ],
    ids=["unknown", "too-small", "none"],
)
async def test_bad_limits_change_nothing(control_plane, asked, error, words):
    before = await limits(control_plane)
    with pytest.raises(error) as caught:
        await control_plane.quotas.set_limits("demo", asked)
    assert words in caught.value.message
    assert await limits(control_plane) == before


async def test_administrator_sets_limits_and_hears_what_was_set(admin):
    answer = await admin.send("PUT", "/mgmt/quotas/demo", {"quotas": {"instances": 20}})
    assert (answer.status, answer.json) == (200, {"quotas": {"instances": 20}})
    answer = await admin.send("PUT", "/mgmt/quotas/demo", {"quotas": {"ram": "-1"}})
    assert answer.json == {"quotas": {"ram": -1}}
    shown = await admin.for_project("demo").send("GET", "/mgmt/quotas/demo")
    assert [(item["resource"], item["limit"]) for item in shown.json["quotas"]] == [
        ("backups", 50),
        ("instances", 20),
        ("ram", -1),
        ("volumes", 40),
    ]
    absolute = (await admin.for_project("demo").send("GET", "/limits")).json["limits"][0]
    assert absolute["max_instances"] == 20


async def test_users_read_their_own_and_set_none(admin):
    user = admin.for_project("demo")
    assert (await user.send("GET", "/mgmt/quotas/demo")).status == 200
    other = await user.send("GET", "/mgmt/quotas/other")
    assert (other.status, other.message) == (403, "Operation not allowed for tenant demo.")
    for project in ("demo", "other", ADMIN_PROJECT):
        refused = await user.send("PUT", f"/mgmt/quotas/{project}", {"quotas": {"instances": 99}})
        assert (refused.status, refused.message) == (401, "User does not have admin privileges.")
    assert (await admin.send("GET", "/mgmt/quotas/other")).json["quotas"][1]["limit"] == 55


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"quotas": {"foo": 20}}, 404),
        ({"quotas": {"instances": -2}}, 400),
        ({"quotas": {"instances": None}}, 400),
        ({"quotas": {"instances": 1.5}}, 400),
        ({"quotas": {"instances": True}}, 400),
        ({"quotas": {"instances": "many"}}, 400),
        ({"quotas": {"instances": 2**70}}, 400),
        ({"quotas": {"instances": "-" + "9" * 5000}}, 400),
        ({"quotas": {}}, 400),
        ({"quotas": []}, 400),
        ({"quotas": {f"r{number}": 1 for number in range(1000)}}, 400),
        ({"instances": 3}, 400),
    ],
    ids=str,
)
async def test_bad_request_has_troves_code_and_changes_nothing(admin, body, status):
    assert (await admin.send("PUT", "/mgmt/quotas/demo", body)).status == status
    shown = await admin.send("GET", "/mgmt/quotas/demo")
    assert shown.json["quotas"][1]["limit"] == 55
