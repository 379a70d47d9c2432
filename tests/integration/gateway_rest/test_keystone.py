"""The API behind tokens: a fake Keystone over TLS, the same contract as the real one's."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import logging
import re
from pathlib import Path

import pytest

from gateway.rest.auth import Caller
from gateway.rest.auth.identity_api import IdentityApi, open_session
from gateway.rest.auth.settings import KeystoneSettings
from gateway.rest.config import Config
from gateway.rest.policy import Policy
from tests.fakes.keystone import LIFE, FakeKeystone, running_keystone
from tests.fakes.keystone_contract import KeystoneContract, wall_clock
from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_server import running_rest
from trove_grpc import config
from trove_grpc.errors import InvalidRequestError, UnavailableError

INSTANCE = {
    "instance": {
        "name": "i1",
        "flavorRef": "1",
        "volume": {"size": 1},
        "datastore": {"type": "postgresql", "version": "15"},
    }
}
HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "keystone.md"
GLOBAL_ID = "req-0a1b2c3d-1111-2222-3333-444455556666"


class Clock:
    """The wall clock, and how far it was moved."""

    def __init__(self) -> None:
        self.moved = dt.timedelta(0)

    def __call__(self) -> dt.datetime:
        return wall_clock() + self.moved


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def keystone(tmp_path, clock):
    async with running_keystone(tmp_path, clock) as keystone:
        yield keystone


class TestFakeKeystone(KeystoneContract):
    @pytest.fixture
    def project_id(self):
        return "alpha"


def settings_for(keystone: FakeKeystone, **changes) -> KeystoneSettings:
    return KeystoneSettings(
        **{
            "auth_url": keystone.auth_url,
            "ca_file": keystone.ca_file,
            "credential_file": keystone.credential("trove", "service"),
            "timeout": dt.timedelta(seconds=20),
        }
        | changes
    )


@contextlib.asynccontextmanager
async def served(keystone: FakeKeystone, *, table=None, **settings):
    table = table or settings_for(keystone)
    control_plane = FakeControlPlane()
    async with running_rest(control_plane, auth="keystone", keystone=table, **settings) as client:
        yield client.for_project("alpha")


@pytest.fixture
async def alpha(keystone):
    async with served(keystone) as client:
        yield client


def by(token: str, **more: str) -> dict[str, str]:
    return {"X-Auth-Token": token} | more


async def test_member_of_the_project_is_let_in(alpha, keystone):
    answer = await alpha.send("GET", "/instances", headers=by(keystone.issue("alice", "alpha")))

    assert answer.status == 200


@pytest.mark.parametrize("path", ["/", "/v1.0", "/v1.0/", "/healthcheck"])
async def test_versions_and_health_need_no_token(alpha, path):
    assert (await alpha.send("GET", alpha.root + path)).status == 200


async def test_everything_else_needs_one_and_says_where_to_get_it(alpha, keystone):
    answer = await alpha.send("GET", "/instances")

    assert answer.status == 401
    assert answer.json["unauthorized"]["code"] == 401
    assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{keystone.auth_url}"'


async def test_bad_token_is_neither_echoed_nor_logged(alpha, keystone, caplog):
    caplog.set_level(logging.DEBUG)
    good = keystone.issue("alice", "alpha")

    answer = await alpha.send("GET", "/instances", headers=by("canary-token"))
    await alpha.send("GET", "/instances", headers=by(good))

    assert answer.status == 401
    assert "canary" not in answer.text + str(answer.headers) + caplog.text
    assert good not in caplog.text
    assert not any(issued in caplog.text for issued in keystone.tokens)


async def test_two_tokens_in_one_request_are_refused(alpha, keystone):
    token = keystone.issue("alice", "alpha")
    reader, writer = await asyncio.open_connection("127.0.0.1", alpha.port)
    writer.write(
        f"GET /v1.0/alpha/instances HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {token}\r\n"
        f"X-Auth-Token: {token}\r\nConnection: close\r\n\r\n".encode()
    )
    status = await reader.readline()
    await reader.read()
    writer.close()
    await writer.wait_closed()

    assert b" 401 " in status


async def test_other_projects_path_is_refused_in_troves_words(alpha, keystone):
    beta = alpha.for_project("beta")
    alice, bob = keystone.issue("alice", "alpha"), keystone.issue("bob", "beta")
    created = await beta.send("POST", "/instances", INSTANCE, headers=by(bob))
    path = f"/instances/{created.json['instance']['id']}"

    refused = await beta.send("GET", path, headers=by(alice))
    assert refused.status == 403
    assert refused.json["forbidden"]["message"] == (
        "User with tenant id alpha cannot access this resource."
    )
    assert (await alpha.send("GET", path, headers=by(alice))).status == 404
    assert (await alpha.send("DELETE", path, headers=by(alice))).status == 404


async def test_token_without_a_projects_scope_is_refused(alpha, keystone):
    answer = await alpha.send("GET", "/instances", headers=by(keystone.issue("alice", None)))

    assert answer.status == 403
    assert "scope" in answer.message


async def test_administrator_of_one_project_is_still_of_one_project(alpha, keystone):
    root = keystone.issue("chief", "ops", ["admin"])

    assert (await alpha.send("GET", "/instances", headers=by(root))).status == 403


async def test_management_is_for_administrators_and_401_for_others(alpha, keystone):
    refused = await alpha.send(
        "GET", "/mgmt/instances", headers=by(keystone.issue("alice", "alpha"))
    )
    allowed = await alpha.send(
        "GET", "/mgmt/instances", headers=by(keystone.issue("chief", "alpha", ["ADMIN"]))
    )

    assert (refused.status, refused.message) == (401, "User does not have admin privileges.")
    assert allowed.status not in (401, 403)


async def test_role_of_the_settings_makes_an_administrator(keystone):
    table = settings_for(keystone, admin_roles=("dba",))
    async with served(keystone, table=table) as alpha:
        token = keystone.issue("chief", "alpha", ["dba"])

        answer = await alpha.send("GET", "/mgmt/instances", headers=by(token))

    assert answer.status not in (401, 403)


async def test_expired_token_is_refused(alpha, keystone, clock):
    token = keystone.issue("alice", "alpha")
    clock.moved = LIFE
    # Ours was not made yet: Keystone's clock is the one that counts.
    assert (await alpha.send("GET", "/instances", headers=by(token))).status == 401


async def test_service_may_go_on_with_a_users_expired_token(alpha, keystone):
    token = keystone.issue("alice", "alpha")
    keystone.tokens[token].expires_at = wall_clock() - dt.timedelta(minutes=1)
    service = keystone.issue("heat", "service", ["service"])

    answer = await alpha.send(
        "GET", "/instances", headers=by(token, **{"X-Service-Token": service})
    )

    assert answer.status == 200


@pytest.mark.parametrize("service", ["without the role", "expired", "none"])
async def test_what_is_no_service_may_not(alpha, keystone, service):
    token = keystone.issue("alice", "alpha")
    keystone.tokens[token].expires_at = wall_clock() - dt.timedelta(minutes=1)
    given = keystone.issue("heat", "service", ["member"])
    if service == "expired":
        given = keystone.issue("heat", "service", ["service"])
        keystone.tokens[given].expires_at = wall_clock() - dt.timedelta(minutes=1)
    if service == "none":
        given = "canary"

    answer = await alpha.send("GET", "/instances", headers=by(token, **{"X-Service-Token": given}))

    assert answer.status == 401


async def test_bad_service_token_spoils_a_good_users_token(alpha, keystone):
    headers = by(keystone.issue("alice", "alpha"), **{"X-Service-Token": "canary"})

    assert (await alpha.send("GET", "/instances", headers=headers)).status == 401


@pytest.mark.parametrize("status", [500, 502, 503, 429, 302])
async def test_failing_keystone_is_503_and_tokens_it_vouched_for_go_on(alpha, keystone, status):
    known, other = keystone.issue("alice", "alpha"), keystone.issue("bob", "alpha")
    await alpha.send("GET", "/instances", headers=by(known))
    keystone.failing = status

    refused = await alpha.send("GET", "/instances", headers=by(other))
    went_on = await alpha.send("GET", "/instances", headers=by(known))
    keystone.failing = None
    again = await alpha.send("GET", "/instances", headers=by(other))

    assert refused.status == 503
    assert refused.headers["Retry-After"] == "5"
    assert "identity service" in refused.message
    assert (went_on.status, again.status) == (200, 200)


async def test_slow_keystone_is_503_after_the_timeout(keystone):
    table = settings_for(keystone, timeout=dt.timedelta(seconds=0.2))
    keystone.hold = asyncio.Event()
    async with served(keystone, table=table) as alpha:
        answer = await alpha.send(
            "GET", "/instances", headers=by(keystone.issue("alice", "alpha"))
        )
        keystone.hold.set()

    assert answer.status == 503


async def test_absent_keystone_is_503(keystone):
    table = settings_for(keystone, auth_url="https://127.0.0.1:1/v3")
    async with served(keystone, table=table) as alpha:
        answer = await alpha.send("GET", "/instances", headers=by("token"))

    assert answer.status == 503


async def test_keystone_with_a_certificate_of_others_gets_no_token(keystone):
    table = settings_for(keystone, ca_file=None)
    async with served(keystone, table=table) as alpha:
        answer = await alpha.send(
            "GET", "/instances", headers=by(keystone.issue("alice", "alpha"))
        )

    assert answer.status == 503
    assert (keystone.sign_ins, keystone.validations) == (0, 0)


async def test_service_signs_in_once_for_many_and_anew_before_its_token_ends(keystone, clock):
    settings = settings_for(keystone)
    async with open_session(settings) as session:
        api = IdentityApi(settings, session, now=clock)
        user = keystone.issue("alice", "alpha")
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(api.validate(user, allow_expired=False))
        assert keystone.sign_ins == 1

        clock.moved = LIFE - dt.timedelta(seconds=30)
        assert await api.validate(user, allow_expired=False)
        assert keystone.sign_ins == 2


async def test_new_credential_in_the_file_needs_no_restart(keystone):
    settings = settings_for(keystone)
    async with open_session(settings) as session:
        api = IdentityApi(settings, session, now=wall_clock)
        user = keystone.issue("alice", "alpha")
        await api.validate(user, allow_expired=False)
        keystone.revoke(api._own.text)
        keystone.credential("trove", "service")  # into the same file, the old one is void

        assert await api.validate(user, allow_expired=False)


async def test_vanished_credential_is_told_to_the_operator_alone(keystone, caplog):
    settings = settings_for(keystone)
    settings.credential_file.unlink()
    async with open_session(settings) as session:
        api = IdentityApi(settings, session, now=wall_clock)
        with pytest.raises(UnavailableError) as away:
            await api.validate("token", allow_expired=False)

    assert str(settings.credential_file) in caplog.text
    assert str(settings.credential_file) not in away.value.message


@pytest.mark.parametrize(
    ("content", "mode", "what"),
    [
        (b'{"id": "x", "secret": "canary"}', 0o644, "open to others"),
        (b'{"id": "canary"}', 0o600, "is not JSON with"),
        (b"canary", 0o600, "is not JSON with"),
        (b'["canary"]', 0o600, "is not JSON with"),
        (b'{"username": "canary", "password": "canary"}', 0o600, "is not JSON with"),
    ],
)
async def test_bad_credential_is_a_refusal_to_start(keystone, tmp_path, content, mode, what):
    file = tmp_path / "credential.json"
    file.write_bytes(content)
    file.chmod(mode)
    table = settings_for(keystone, credential_file=file)

    with pytest.raises(ExceptionGroup) as group:
        async with served(keystone, table=table):
            pass

    (error,) = group.value.exceptions
    assert isinstance(error, InvalidRequestError)
    assert what in error.message
    assert "canary" not in error.message


async def test_clients_may_be_told_another_address_of_keystone(keystone):
    table = settings_for(keystone, www_authenticate_uri="https://public.example/v3")
    async with served(keystone, table=table) as alpha:
        answer = await alpha.send("GET", "/instances")

    assert answer.headers["WWW-Authenticate"] == 'Keystone uri="https://public.example/v3"'


async def test_request_id_is_ours_and_the_callers_stands_beside_it(alpha, caplog):
    caplog.set_level(logging.INFO)
    answers = [
        await alpha.send("GET", path, headers={"X-OpenStack-Request-Id": GLOBAL_ID})
        for path in ("/instances", alpha.root + "/", alpha.root + "/nowhere")
    ]

    ids = {answer.headers["X-OpenStack-Request-Id"] for answer in answers}
    assert len(ids) == 3
    assert GLOBAL_ID not in ids


async def test_policy_file_is_followed_as_it_changes(keystone, tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text('"instance:index": "role:reader"\n')
    async with served(keystone, policy_file=file) as alpha:
        member = by(keystone.issue("alice", "alpha", ["member"]))
        refused = await alpha.send("GET", "/instances", headers=member)
        file.write_text('"instance:index": "role:reader or role:member"\n')
        allowed = await alpha.send("GET", "/instances", headers=member)

    assert refused.status == 403
    assert refused.message == "Policy doesn't allow instance:index to be performed."
    assert allowed.status == 200


async def test_no_policy_file_opens_management_to_those_who_are_no_administrators(
    keystone, tmp_path
):
    file = tmp_path / "policy.yaml"
    file.write_text('"mgmt": "@"\n')
    async with served(keystone, policy_file=file) as alpha:
        member = by(keystone.issue("alice", "alpha"))
        answer = await alpha.send("GET", "/mgmt/instances", headers=member)

    assert answer.status == 401


async def test_what_a_new_instance_brings_along_has_rules_of_its_own(keystone, tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text('"instance:extension:database:create": "rule:admin"\n')
    body = {"instance": INSTANCE["instance"] | {"databases": [{"name": "app"}]}}
    async with served(keystone, policy_file=file) as alpha:
        member = by(keystone.issue("alice", "alpha"))
        refused = await alpha.send("POST", "/instances", body, headers=member)
        allowed = await alpha.send("POST", "/instances", INSTANCE, headers=member)

    assert refused.status == 403
    assert "instance:extension:database:create" in refused.message
    assert allowed.status == 200


@pytest.mark.parametrize("options", [{}, {"force_delete": True}, None])
async def test_owner_may_not_reset_a_status_by_any_word(alpha, keystone, options):
    member = by(keystone.issue("alice", "alpha"))
    created = await alpha.send("POST", "/instances", INSTANCE, headers=member)
    path = f"/instances/{created.json['instance']['id']}/action"

    answer = await alpha.send("POST", path, {"reset_status": options}, headers=member)

    assert answer.status == 403
    assert answer.message == "Policy doesn't allow instance:reset_status to be performed."


async def test_page_of_an_allowed_origin_may_call_and_read_errors(keystone):
    page = {"Origin": "https://dashboard.example"}
    async with served(keystone, cors_allowed_origins=("https://dashboard.example",)) as alpha:
        preflight = await alpha.send(
            "OPTIONS",
            "/instances",
            headers=page
            | {
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "x-auth-token, Content-Type",
            },
        )
        refused = await alpha.send("GET", "/instances", headers=page)
        stranger = await alpha.send(
            "GET", "/instances", headers={"Origin": "https://evil.example"}
        )

    assert preflight.status == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == page["Origin"]
    assert "X-Auth-Token" in preflight.headers["Access-Control-Allow-Headers"]
    assert "DELETE" in preflight.headers["Access-Control-Allow-Methods"]
    assert preflight.headers["Access-Control-Max-Age"] == "3600"
    assert refused.status == 401
    assert refused.headers["Access-Control-Allow-Origin"] == page["Origin"]
    assert "X-OpenStack-Request-ID" in refused.headers["Access-Control-Expose-Headers"]
    for answer in (preflight, refused, stranger):
        assert "Origin" in answer.headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert "X-OpenStack-Request-Id" in answer.headers
    assert "Access-Control-Allow-Origin" not in stranger.headers


@pytest.mark.parametrize(
    "asked",
    [
        {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"},
        {"Origin": "https://dashboard.example", "Access-Control-Request-Method": "TRACE"},
        {
            "Origin": "https://dashboard.example",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "X-Evil",
        },
    ],
)
async def test_preflight_that_asks_for_more_gets_nothing(keystone, asked):
    async with served(keystone, cors_allowed_origins=("https://dashboard.example",)) as alpha:
        answer = await alpha.send("OPTIONS", "/instances", headers=asked)

    assert not [name for name in answer.headers if name.startswith("Access-Control")]


async def test_without_allowed_origins_no_page_is_answered(alpha, keystone):
    headers = by(keystone.issue("alice", "alpha"), Origin="https://dashboard.example")
    answer = await alpha.send("GET", "/instances", headers=headers)

    assert not [name for name in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"cors_allowed_origins": ("dashboard.example",)}, "is not 'https://"),
        ({"cors_allowed_origins": ("https://dashboard.example/",)}, "is not 'https://"),
        ({"auth": "none", "cors_allowed_origins": ("*",)}, "needs authentication"),
        ({"auth": "keystone", "keystone": None}, r"needs the table \[keystone\]"),
    ],
)
async def test_unsafe_settings_are_a_refusal_to_start(keystone, settings, what):
    table = {"auth": "keystone", "keystone": settings_for(keystone)}
    with pytest.raises(ExceptionGroup) as group:
        async with running_rest(FakeControlPlane(), **table | settings):
            pass

    assert group.group_contains(InvalidRequestError, match=what)


def test_settings_of_the_how_to_are_settings(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    file = tmp_path / "api.toml"
    file.write_text(text)
    found = config.load(Config, file=file)

    # Every setting of Keystone is shown there.
    assert found.keystone is not None
    for each in dataclasses.fields(found.keystone):
        assert f"\n{each.name} = " in text


def test_rules_of_the_how_to_are_rules(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    policy = Policy(file)

    reader = Caller(project_id="alpha", roles=("reader",))
    assert policy.allows(reader, "instance:show")
    assert not policy.allows(reader, "instance:create")


async def test_health_is_told_as_oslo_middleware_tells_it(keystone, tmp_path):
    file = tmp_path / "disabled"
    async with served(keystone, healthcheck_disable_file=file) as alpha:
        url = alpha.root + "/healthcheck"
        well = await alpha.send("GET", url)
        described = await alpha.send("GET", url, headers={"Accept": "application/json"})
        file.touch()
        ill = await alpha.send("GET", url)

    assert (well.status, well.text) == (200, "OK")
    assert described.json == {"detailed": False, "reasons": ["OK"]}
    assert (ill.status, ill.text) == (503, "DISABLED BY FILE")
