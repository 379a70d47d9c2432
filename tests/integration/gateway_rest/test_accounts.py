"""Databases, users, access and root of an instance, seen from outside."""

from __future__ import annotations

import datetime as dt
import logging
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from gateway.rest.passwords import mysql_native_password_verifier
from guestagent.engines.accounts import Account
from tests.fakes.rest_admin import running_rest_with_admins
from tests.fakes.rest_control_plane import FakeControlPlane, build_datastore
from tests.fakes.rest_server import running_rest
from trove_grpc import errors
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import accounts_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

PASSWORD = "canary-Pa55word"
HOSTILE = (
    "a%b",
    "%41%2e",
    "a.b",
    ".",
    "..",
    "x/y?z=1&w#v",
    "ann@home",
    "'; DROP TABLE t; --",
    '"`\\',
    "{id}",
    "größe 你好",
    "a+b c",
)


@pytest.fixture
def control_plane() -> FakeControlPlane:
    managers = ("mariadb", "postgresql", "redis")
    return FakeControlPlane(
        [build_datastore(name, [("1", "1", True)], manager=name) for name in managers]
    )


@pytest.fixture
async def client(control_plane):
    async with running_rest(control_plane) as client:
        yield client


class Instance:
    """One active instance, and the engine inside it."""

    def __init__(self, client, control_plane, view):
        self._client = client
        self.view = view
        self.id = view.id
        self.guests = control_plane.guests
        self.accounts = control_plane.guests.accounts(view.id)

    async def send(self, method, path, body=None, **options):
        return await self._client.send(method, f"/instances/{self.id}{path}", body, **options)

    async def raw(self, method, path, body=None):
        return await self._client.send_quoted(method, f"/instances/{self.id}{path}", body)


@pytest.fixture
def make(client, control_plane):
    async def make(manager="mariadb", status="ACTIVE") -> Instance:
        body = {
            "name": "i",
            "flavorRef": "1",
            "volume": {"size": 1},
            "datastore": {"type": manager},
        }
        answer = await client.send("POST", "/instances", {"instance": body})
        view = control_plane.activate(answer.json["instance"]["id"])
        view.status = status
        return Instance(client, control_plane, view)

    return make


@pytest.fixture
async def instance(make):
    return await make()


@pytest.mark.parametrize("name", HOSTILE)
async def test_any_legal_name_is_made_found_and_removed(instance, name):
    user = {"name": name, "password": PASSWORD, "databases": [{"name": name}]}
    segment = quote(name, safe="").replace(".", "%2e")
    made = await instance.send("POST", "/databases", {"databases": [{"name": name}]})
    assert made.status == 202, made.text
    assert (await instance.send("POST", "/users", {"users": [user]})).status == 202
    shown = await instance.raw("GET", f"/users/{segment}")
    expected = {"name": name, "host": "%", "databases": [{"name": name}]}
    assert shown.json == {"user": expected}, shown.text
    full = await instance.raw("GET", f"/users/{segment}%40%25")
    assert full.json == {"user": expected}
    revoked = await instance.raw("DELETE", f"/users/{segment}/databases/{segment}")
    assert (revoked.status, revoked.text) == (202, "")
    granted = {"databases": [{"name": name}]}
    assert (await instance.raw("PUT", f"/users/{segment}/databases", granted)).status == 202
    listed = await instance.raw("GET", f"/users/{segment}/databases")
    assert listed.json == granted
    changed = {"user": {"password": "other"}}
    assert (await instance.raw("PUT", f"/users/{segment}", changed)).status == 202
    assert (await instance.raw("DELETE", f"/users/{segment}")).status == 202
    assert (await instance.raw("DELETE", f"/users/{segment}")).status == 404
    assert (await instance.raw("DELETE", f"/databases/{segment}")).status == 202
    assert (await instance.raw("DELETE", f"/databases/{segment}")).status == 404


async def test_users_of_one_name_are_told_apart_by_their_hosts(instance):
    users = [
        {"name": "ann", "password": PASSWORD, "host": host}
        for host in ("%", "10.0.0.7", "10.0.%", "192.168.0.0/255.255.0.0")
    ]
    assert (await instance.send("POST", "/users", {"users": users})).status == 202
    for user in users:
        segment = quote(f"ann@{user['host']}", safe="")
        shown = await instance.raw("GET", f"/users/{segment}")
        assert shown.json["user"]["host"] == user["host"]
    assert (await instance.send("DELETE", "/users/ann@10.0.0.7")).status == 202
    assert Account("ann", "10.0.0.7") not in instance.accounts.users
    move = {"user": {"host": "10.9.9.9", "name": "bea"}}
    assert (await instance.raw("PUT", "/users/ann", move)).status == 202
    assert Account("bea", "10.9.9.9") in instance.accounts.users


async def test_users_without_hosts_may_have_any_name_with_an_at(make):
    instance = await make("postgresql")
    users = [{"name": "ann@10.0.0.7", "password": PASSWORD}]
    assert (await instance.send("POST", "/users", {"users": users})).status == 202
    shown = await instance.raw("GET", "/users/ann%4010.0.0.7")
    assert shown.json["user"]["name"] == "ann@10.0.0.7"
    limited = [{"name": "bob", "password": PASSWORD, "host": "10.0.0.7"}]
    assert (await instance.send("POST", "/users", {"users": limited})).status == 400


@pytest.mark.parametrize("unquoted", [True, False])
async def test_pages_are_bounded_and_links_lead_through_all_of_them(instance, unquoted):
    names = [f"%{number:02d}@größe/{number}" for number in range(45)]
    instance.accounts.databases |= set(names)
    instance.accounts.users |= {Account(name): set() for name in names}
    for collection in ("databases", "users"):
        found, path, sizes = [], f"/{collection}?limit=1000", []
        while path:
            answer = await instance.send("GET", path)
            assert answer.status == 200, answer.text
            page = [item["name"] for item in answer.json[collection]]
            sizes.append(len(page))
            found += page
            (link,) = answer.json.get("links", [None])
            path = ""
            if link is not None:
                assert link["rel"] == "next"
                assert urlsplit(link["href"]).path.endswith(f"/{instance.id}/{collection}")
                (marker,) = parse_qs(urlsplit(link["href"]).query)["marker"]
                # python-troveclient unquotes it once, others follow the link.
                marker = unquote(marker) if unquoted else marker
                path = f"/{collection}?limit=1000&marker={quote(marker, safe='')}"
        assert (found, sizes) == (sorted(names), [20, 20, 5])
    assert (await instance.send("GET", "/users?limit=0")).status == 400
    assert (await instance.send("GET", "/databases?marker=zzz")).json == {"databases": []}


async def test_password_goes_no_further_than_its_verifier(instance, caplog):
    caplog.set_level(logging.DEBUG)
    user = {"name": "ann", "password": PASSWORD}
    await instance.send("POST", "/users", {"users": [user]})
    await instance.send("PUT", "/users", {"users": [user]})
    await instance.send("PUT", "/users/ann", {"user": {"password": PASSWORD}})
    await instance.send("POST", "/root", {"password": PASSWORD})
    sent = instance.guests.sent
    assert len(sent) == 4
    assert not any(PASSWORD.encode() in command.SerializeToString() for command in sent)
    assert instance.accounts.verifiers[Account("ann")] == mysql_native_password_verifier(PASSWORD)
    assert PASSWORD not in caplog.text


async def test_repeat_with_one_key_is_one_command_and_another_change_another(instance):
    headers = {"X-Idempotency-Key": "key-1"}
    user = {"name": "ann", "password": PASSWORD}
    for _ in range(2):
        answer = await instance.send("POST", "/users", {"users": [user]}, headers=headers)
        assert answer.status == 202, answer.text
    other = {"users": [{"name": "bob", "password": PASSWORD}]}
    assert (await instance.send("POST", "/users", other, headers=headers)).status == 202
    ids = [command.command_id for command in instance.guests.sent]
    assert ids[0] == ids[1] != ids[2]
    assert all(command_id.startswith("api/") for command_id in ids)
    assert (await instance.send("POST", "/users", {"users": [user]})).status == 400


async def test_root_is_told_its_password_once(instance):
    assert (await instance.send("GET", "/root")).json == {"rootEnabled": False}
    never = await instance.send("DELETE", "/root")
    assert never.status == 404
    assert never.message == "Root user has never been enabled on the instance."
    generated = await instance.send("POST", "/root")
    password = generated.json["user"]["password"]
    assert generated.json["user"]["name"] == "root"
    assert len(password) >= 32
    assert instance.accounts.root_verifier == mysql_native_password_verifier(password)
    assert (await instance.send("GET", "/root")).json == {"rootEnabled": True}
    given = await instance.send("POST", "/root", {"password": PASSWORD})
    assert given.json == {"user": {"name": "root", "password": PASSWORD}}
    disabled = await instance.send("DELETE", "/root")
    assert (disabled.status, disabled.text) == (204, "")
    assert instance.accounts.root_verifier == ""
    assert (await instance.send("GET", "/root")).json == {"rootEnabled": False}


async def test_repeated_enabling_with_one_key_sets_the_password_it_tells(instance):
    headers = {"X-Idempotency-Key": "key-1"}
    for _ in range(2):
        answer = await instance.send("POST", "/root", headers=headers)
        password = answer.json["user"]["password"]
        assert instance.accounts.root_verifier == mysql_native_password_verifier(password)


@pytest.mark.parametrize(
    ("failure", "enabled"),
    [
        (errors.UnavailableError("away", reason="NO_SESSION"), False),
        (errors.TroveError("refused", reason="ENGINE_COMMAND_FAILED"), False),
        (errors.UnavailableError("broke", reason="SESSION_LOST"), True),
        (errors.DeadlineError("silent"), True),
    ],
)
async def test_root_counts_as_enabled_where_it_may_be(instance, failure, enabled):
    instance.guests.failure = failure
    assert (await instance.send("POST", "/root")).status in (400, 503, 504)
    assert (await instance.send("GET", "/root")).json == {"rootEnabled": enabled}


async def test_agent_that_is_away_is_said_to_be_and_since_when(instance):
    heard = dt.datetime(2026, 11, 18, 10, 6, 40, tzinfo=dt.UTC)
    instance.view.last_report_time.FromDatetime(heard)
    instance.guests.failure = errors.UnavailableError("no session", reason="NO_SESSION")
    away = await instance.send("GET", "/users")
    assert away.status == 503
    assert int(away.headers["Retry-After"]) > 0
    assert "last heard of" in away.message
    assert "2026-11-18T10:06:40Z" in away.message
    instance.guests.failure = errors.DeadlineError("no answer")
    silent = await instance.send("POST", "/databases", {"databases": [{"name": "d"}]})
    assert silent.status == 504
    assert "may have happened" in silent.message
    # What is recorded is known all the same.
    assert (await instance.send("GET", "/root")).status == 200


@pytest.mark.parametrize("reason", ["NOT_ADMIN", "BODY_TOO_LARGE", "QUOTA_EXCEEDED", "ODD"])
async def test_guest_cannot_choose_the_status_of_an_answer(instance, reason):
    instance.guests.failure = errors.from_reason(reason, "evil\x1b[2J\nline")
    answer = await instance.send("GET", "/users")
    assert answer.status == 400
    assert answer.message == "evil [2J line"


@pytest.mark.parametrize(
    "names", [["a"] * 21, ["esc\x1b"], [""], ["x" * 256]], ids=["many", "control", "empty", "long"]
)
async def test_nonsense_of_a_guest_is_no_answer(instance, names):
    def nonsense(command):
        result = guest_pb2.CommandResult(command_id=command.command_id)
        databases = [engine_pb2.DatabaseSpec(name=name) for name in names]
        result.databases.CopyFrom(accounts_pb2.DatabasesResult(databases=databases))
        users = [engine_pb2.UserSpec(name=name) for name in names]
        if not command.HasField("list_databases"):
            result.users.CopyFrom(accounts_pb2.UsersResult(users=users))
        return result

    instance.guests.answer = nonsense
    paths = ["/databases", "/users"] + ([] if names == ["a"] * 21 else ["/users/a"])
    for path in paths:
        answer = await instance.send("GET", path)
        assert (answer.status, list(answer.json)) == (502, ["badGateway"]), path


@pytest.mark.parametrize("status", ["SHUTDOWN", "RESIZE", "REBOOT", "UPGRADE", "ERROR", "BUILD"])
async def test_nobody_looks_inside_an_instance_that_is_busy(make, status):
    instance = await make(status=status)
    for method, path in (("GET", "/users"), ("GET", "/databases"), ("POST", "/root")):
        assert (await instance.send(method, path)).status == 422, path
    assert instance.guests.sent == []


async def test_redis_has_nothing_to_manage_inside(make):
    instance = await make("redis")
    for method, path in (("GET", "/users"), ("GET", "/databases"), ("POST", "/root")):
        answer = await instance.send(method, path)
        assert (answer.status, list(answer.json)) == (501, ["notImplemented"]), path
    assert instance.guests.sent == []


async def test_another_projects_instance_is_not_found_by_any_route(instance, client):
    stranger = client.for_project("beta")
    path = f"/instances/{instance.id}"
    user = {"name": "eve", "password": PASSWORD}
    for method, rest, body in (
        ("GET", "/databases", None),
        ("POST", "/databases", {"databases": [{"name": "d"}]}),
        ("GET", "/databases/d", None),
        ("DELETE", "/databases/d", None),
        ("GET", "/users", None),
        ("POST", "/users", {"users": [user]}),
        ("PUT", "/users", {"users": [user]}),
        ("GET", "/users/ann", None),
        ("POST", "/users/ann", {"user": user}),
        ("PUT", "/users/ann", {"user": {"password": "x"}}),
        ("DELETE", "/users/ann", None),
        ("GET", "/users/ann/databases", None),
        ("PUT", "/users/ann/databases", {"databases": [{"name": "d"}]}),
        ("DELETE", "/users/ann/databases/d", None),
        ("GET", "/root", None),
        ("POST", "/root", None),
        ("DELETE", "/root", None),
    ):
        answer = await stranger.send(method, path + rest, body)
        assert answer.status == 404, (method, rest, answer.text)
    assert instance.guests.sent == []


async def test_reserved_names_are_refused_wherever_they_are_named(instance):
    for name in ("root", "os_admin", "ROOT"):
        for method, path, body in (
            ("POST", "/users", {"users": [{"name": name, "password": "x"}]}),
            ("PUT", "/users", {"users": [{"name": name, "password": "x"}]}),
            ("PUT", f"/users/{name}", {"user": {"password": "x"}}),
            ("DELETE", f"/users/{name}", None),
            ("GET", f"/users/{name}", None),
            ("PUT", f"/users/{name}/databases", {"databases": [{"name": "d"}]}),
        ):
            assert (await instance.send(method, path, body)).status == 400, (method, path)
    assert (await instance.send("DELETE", "/databases/mysql")).status == 400
    assert instance.guests.sent == []


async def test_bodies_that_openstacksdk_sends_are_taken(instance):
    made = await instance.send("POST", "/databases", {"database": {"name": "shop"}})
    assert made.status == 202
    user = {"name": "ann", "password": PASSWORD, "databases": [{"name": "shop"}]}
    assert (await instance.send("POST", "/users/ann", {"user": user})).status == 202
    assert instance.accounts.users == {Account("ann"): {"shop"}}
    other = await instance.send("POST", "/users/bob", {"user": user})
    assert other.status == 400


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/databases", {}),
        ("POST", "/databases", {"databases": "x"}),
        ("POST", "/databases", {"databases": ["x"]}),
        ("POST", "/databases", {"databases": [{"name": "a"}, {"name": "a"}]}),
        ("POST", "/databases", {"databases": [{"name": "a", "collate": "'; --"}]}),
        ("POST", "/users", {"users": [{"name": "a\x00", "password": "x"}]}),
        ("POST", "/users", {"users": [{"name": "a", "password": "x"}] * 2}),
        ("PUT", "/users", {"users": [{"name": "a"}]}),
        ("PUT", "/users/a", {"user": {"colour": "red"}}),
        ("PUT", "/users/a", {"user": {"password": ""}}),
        ("PUT", "/users/a/databases", {"databases": [{"name": "mysql"}]}),
        ("POST", "/root", {"password": 7}),
    ],
)
async def test_malformed_requests_reach_no_guest(instance, method, path, body):
    assert (await instance.send(method, path, body)).status == 400
    assert instance.guests.sent == []


async def test_administrators_see_who_enabled_root(instance, client, control_plane):
    path = f"/mgmt/instances/{instance.id}/root"
    async with running_rest_with_admins(control_plane) as admins:
        before = (await admins.send("GET", path)).json["root_history"]
        await instance.send("POST", "/root")
        await instance.send("DELETE", "/root")
        after = (await admins.send("GET", path)).json["root_history"]
    assert before == {"id": instance.id, "enabled": "Never", "user": "Nobody"}
    assert (after["id"], after["user"]) == (instance.id, "demo")
    assert after["enabled"].startswith("20")
    assert (await client.send("GET", path)).status == 401
