"""Rules: Trove's names and defaults, an operator's file over them, a rule for every route."""

from __future__ import annotations

import datetime as dt
import logging

import pytest
from aiohttp import web

from gateway.rest.app import build_app
from gateway.rest.auth import Caller, NoAuth
from gateway.rest.cors import CrossOrigin
from gateway.rest.policy import Policy, defaults, routes
from gateway.rest.router import Settings
from tests.fakes.rest_control_plane import FakeControlPlane
from trove_grpc.errors import InvalidRequestError, PermissionDeniedError

MEMBER = Caller(project_id="alpha", user_id="u", roles=("member",))
READER = Caller(project_id="alpha", user_id="u", roles=("reader",))
CHIEF = Caller(project_id="alpha", user_id="u", roles=("Admin",), is_admin=True)
BY_SETTINGS = Caller(project_id="alpha", user_id="u", roles=("dba",), is_admin=True)
ADMINISTRATORS = {
    "admin",
    "mgmt",
    "instance:reset_status",
    "cluster:reset-status",
    "datastore:delete",
    "backup:index:all_projects",
}


def build(policy: Policy) -> web.Application:
    settings = Settings(
        region="RegionOne",
        public_endpoint="",
        max_body_bytes=1000,
        body_timeout=dt.timedelta(seconds=1),
        request_timeout=dt.timedelta(seconds=1),
    )
    cross_origin = CrossOrigin((), max_age=dt.timedelta(0))
    return build_app(FakeControlPlane(), NoAuth(), policy, settings, cross_origin)


def project_routes() -> list[tuple[str, str]]:
    prefix = "/v1.0/{project}"
    return [
        (route.method, route.resource.canonical.removeprefix(prefix))
        for route in build(Policy()).router.routes()
        if route.resource is not None and route.resource.canonical.startswith(prefix)
    ]


def test_every_route_has_a_rule_that_exists():
    found = project_routes()
    known = set(defaults.rules())

    assert len(found) > 50
    for method, path in found:
        rule = routes.rule_of(method, path)
        assert callable(rule) or rule in known, (method, path)


def test_every_rule_of_the_table_exists():
    assert routes.fixed_rules() <= set(defaults.rules())


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/treasure"), ("PATCH", "/limits"), ("GET", "/backups/{id}/x")]
)
def test_route_without_a_rule_cannot_be_served(method, path):
    with pytest.raises(LookupError, match="has no rule"):
        routes.guard_of(Policy(), method, path)


@pytest.mark.parametrize(
    ("method", "path", "rule"),
    [
        ("GET", "/instances/{name}", "instance:show"),
        ("GET", "/instances/detail", "instance:detail"),
        (
            "DELETE",
            r"/instances/{id}/users/{name:[^/]+}/databases/{d}",
            "instance:extension:user_access:delete",
        ),
        ("POST", "/mgmt/instances/{id}/action", "mgmt"),
        ("GET", "/mgmt/quotas/{project}", "quota:show"),
        ("PUT", "/mgmt/quotas/{project}", "mgmt"),
        ("DELETE", "/datastores/{datastore}", "datastore:delete"),
    ],
)
def test_route_is_guarded_under_troves_name(method, path, rule):
    assert routes.rule_of(method, path) == rule


@pytest.mark.parametrize("caller", [MEMBER, READER])
def test_default_is_troves_everything_but_administration_is_the_owners(caller):
    policy = Policy()

    refused = {name for name in defaults.rules() if not policy.allows(caller, name)}
    assert refused == ADMINISTRATORS


@pytest.mark.parametrize("caller", [CHIEF, BY_SETTINGS])
def test_administrators_may_everything(caller):
    policy = Policy()

    assert all(policy.allows(caller, name) for name in defaults.rules())


def test_unknown_rule_lets_nobody_in():
    assert not Policy().allows(CHIEF, "instance:explode")


def test_refusal_is_in_troves_words():
    with pytest.raises(PermissionDeniedError, match=r"^Policy doesn't allow datastore:delete to"):
        Policy().check(MEMBER, "datastore:delete")
    with pytest.raises(PermissionDeniedError) as refused:
        Policy().check(MEMBER, "mgmt")
    assert refused.value.reason == "NOT_ADMIN"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "policy.yaml"


def test_file_goes_over_the_defaults_and_may_have_rules_of_its_own(file):
    file.write_text(
        '"writer": "role:member or rule:admin"\n'
        '"instance:create": "rule:writer and project_id:%(tenant)s"\n'
        '"instance:delete": "!"\n'
        '"instance:restart": "not role:reader"\n'
    )
    policy = Policy(file)

    assert policy.allows(MEMBER, "instance:create")
    assert not policy.allows(READER, "instance:create")
    assert not policy.allows(CHIEF, "instance:delete")
    assert policy.allows(MEMBER, "instance:restart")
    assert not policy.allows(READER, "instance:restart")
    assert policy.allows(READER, "instance:show")


def test_empty_file_changes_nothing(file):
    file.write_text("# nothing yet\n")

    assert Policy(file).allows(MEMBER, "instance:create")


BAD = {
    "no YAML": "{",
    "a list": "- a\n",
    "a number for a rule": '"instance:create": 7\n',
    "an old list rule": '"instance:create": [["role:admin"]]\n',
    "what cannot be read": '"instance:create": "role:admin or"\n',
    "a word": '"instance:create": "not nonsense"\n',
    "a rule that is nowhere": '"instance:create": "rule:nowhere"\n',
    "a circle": '"a": "rule:b"\n"b": "rule:a"\n',
    "a question over HTTP": '"instance:create": "http://127.0.0.1/%(tenant)s"\n',
}


@pytest.mark.parametrize("what", BAD)
def test_file_that_nobody_can_carry_out_is_a_refusal_to_start(file, what):
    file.write_text(BAD[what])

    with pytest.raises(InvalidRequestError):
        Policy(file)


def test_missing_file_is_a_refusal_to_start(file):
    with pytest.raises(InvalidRequestError, match="cannot read policy_file"):
        Policy(file)


@pytest.mark.parametrize("what", [*BAD, None])
def test_file_that_becomes_bad_leaves_the_last_good_rules_in_force(file, what, caplog):
    file.write_text('"instance:create": "!"\n')
    policy = Policy(file)
    if what is None:
        file.unlink()
    else:
        file.write_text(BAD[what])

    with caplog.at_level(logging.ERROR, "gateway.rest.policy.engine"):
        assert not policy.allows(CHIEF, "instance:create")
        assert not policy.allows(CHIEF, "instance:create")
    told = [each for each in caplog.records if "stays as it was" in each.message]
    assert len(told) == 1

    file.write_text('"instance:create": "role:member"\n')
    assert policy.allows(MEMBER, "instance:create")


def test_file_that_is_replaced_as_a_whole_is_followed(file):
    file.write_text('"instance:create": "!"\n')
    policy = Policy(file)
    other = file.with_suffix(".new")
    other.write_text('"instance:create": "@"\n')
    other.replace(file)

    assert policy.allows(MEMBER, "instance:create")
