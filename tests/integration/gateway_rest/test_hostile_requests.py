"""Whatever a client sends, it is told what to change; nothing answers 500."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import json
from typing import Any

import pytest

from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_server import RestClient, running_rest

SHORT = dt.timedelta(seconds=0.1)
CANARY = "canary-Pa55word"
INSTANCE: dict[str, Any] = {
    "name": "i1",
    "flavorRef": "1",
    "volume": {"size": 1},
    "datastore": {"type": "postgresql", "version": "15"},
    "databases": [{"name": "app"}],
    "users": [{"name": "ada", "password": CANARY, "databases": [{"name": "app"}]}],
}


@pytest.fixture
def control_plane() -> FakeControlPlane:
    return FakeControlPlane()


@pytest.fixture
async def client(control_plane):
    async with running_rest(control_plane) as client:
        yield client


def changed(**changes: Any) -> dict[str, Any]:
    return {"instance": INSTANCE | changes}


BODIES = {
    "empty": b"",
    "blank": b"  \n ",
    "cut off": b'{"instance": {"name": "x"',
    "an array": b"[]",
    "a number": b"7",
    "null": b"null",
    "NaN": b'{"instance": {"volume": {"size": NaN}}}',
    "Infinity": b'{"instance": {"volume": {"size": -Infinity}}}',
    "a number of 5000 digits": b'{"instance": {"flavorRef": ' + b"9" * 5000 + b"}}",
    "deep arrays": b"[" * 50_000,
    "deep objects": b'{"instance":' * 8_000,
    "deep but closed": b'{"instance": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    "Latin-1": '{"instance": {"name": "é"}}'.encode("latin-1"),
    "UTF-16": '{"instance": {"name": "e"}}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"instance": {}}',
    "NUL bytes": b"\x00\x00\x00",
    "no root": b'{"foo": {}}',
    "a null root": b'{"instance": null}',
    "an array root": b'{"instance": []}',
    "a text root": b'{"instance": "x"}',
    "two roots in one text": b'{"instance": {}}{"instance": {}}',
}


@pytest.mark.parametrize("what", BODIES)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_body_that_is_no_request_is_refused(client, what, method):
    path = "/instances"
    if method == "PUT":
        created = await client.send("POST", path, {"instance": INSTANCE})
        path += "/" + created.json["instance"]["id"]

    headers = {"Content-Type": "application/json"}
    answer = await client.send(method, path, data=BODIES[what], headers=headers)

    assert answer.status == 400, answer.text
    assert answer.message


NUMBERS = [0, -1, 1.5, 1e300, True, None, [], {}, "", "x", "1e3", "٣", "9" * 41]
TEXTS = [0, 1.5, True, None, [], {}, "", "a\x00b", "line\nbreak", "\ud800", "x" * 256]
FIELDS: dict[str, list[Any]] = {
    "name": [*TEXTS, "---", "🦄🦄"],
    "flavorRef": [None, [], {}, True, "99", -1, 2**70, "", "http://h/v1.0/flavors/99"],
    "volume": [None, [], 7, "1", {}, *({"size": number} for number in NUMBERS)]
    + [{"size": 1, "type": kind} for kind in (7, [], {}, True, "\x00")],
    "datastore": [None, [], 7, "postgresql"]
    + [{"type": value} for value in (7, [], {}, True, "\x00", "\ud800")]
    + [{"version": value} for value in (7, [], {}, True, "\ud800")]
    + [{"version_number": value} for value in (7, [], {}, "no-such")],
    "databases": [None, {}, "app", 7, [7], [None], [[]], [{}]]
    + [[{"name": text}] for text in TEXTS]
    + [[{"name": "app"}, {"name": "app"}], [{"name": "postgres"}], [{"name": "é" * 32}]]
    + [[{"name": f"d{n}"} for n in range(101)]]
    + [[{"name": "app", "character_set": value}] for value in (7, [], "a b", "'; --", "utf8mb4")]
    + [[{"name": "app", "collate": value}] for value in (7, {}, "utf8_general_ci", "C; DROP")],
    "users": [None, {}, "ada", 7, [7], [None], [{}], [{"name": "ada"}]]
    + [[{"name": text, "password": CANARY}] for text in TEXTS]
    + [[{"name": "ada", "password": text}] for text in TEXTS]
    + [[{"name": name, "password": CANARY}] for name in ("postgres", "root", "pg_x", "public")]
    + [[{"name": "ada", "password": CANARY, "databases": [{"name": "absent"}]}]]
    + [[{"name": "ada", "password": CANARY, "databases": value}] for value in ("app", {}, [7])]
    + [[{"name": "ada", "password": CANARY, "host": value}] for value in (7, [], "\x00", "10.%")]
    + [[{"name": "ada", "password": CANARY}] * 2],
    "access": [None, [], 7, {"is_public": "yes"}, {"is_public": 1}, {"allowed_cidrs": "x"}]
    + [{"allowed_cidrs": [value]} for value in (7, None, "x", "999.1.1.1", "::/0", "1.1.1.1/33")]
    + [{"allowed_cidrs": ["10.0.0.0/255.0.0.0"]}],
    "nics": [None, {}, "x", [7], [{"port-id": "x"}], [{"network_id": 7}], [{}, {}]],
    "replica_count": [0, -1, 4, 2, None, "x", 2**70],
    "locality": ["near", 7, [], {}],
    "region_name": [7, [], "RegionTwo", "\ud800"],
    "availability_zone": [7, [], "\x00"],
    "slave_of": ["x", 7],
    "replica_of": ["x", 7, []],
    "configuration": [7, [], "", "\ud800"],
    "modules": [7, {}, [7], [{}]],
    "restorePoint": [None, [], 7, {}, {"backupRef": 7}],
}
CASES = [(field, value) for field, values in FIELDS.items() for value in values]


@pytest.mark.parametrize(
    ("field", "value"), CASES, ids=[f"{f}-{n}" for n, (f, _) in enumerate(CASES)]
)
async def test_wrong_field_is_refused_with_a_message_that_does_not_repeat_it(
    client, control_plane, field, value
):
    data = json.dumps(changed(**{field: value}))
    headers = {"Content-Type": "application/json"}

    answer = await client.send("POST", "/instances", data=data, headers=headers)

    assert answer.status == 400, answer.text
    assert answer.message
    assert CANARY not in answer.text
    assert control_plane.created == []


@pytest.mark.parametrize("value", [None, {}, "", 0, False])
@pytest.mark.parametrize("field", ["databases", "users"])
async def test_nothing_is_not_an_empty_list(client, field, value):
    bare = {key: item for key, item in INSTANCE.items() if key not in ("databases", "users")}
    refused = await client.send("POST", "/instances", {"instance": bare | {field: value}})
    accepted = await client.send("POST", "/instances", {"instance": bare | {field: []}})

    assert (refused.status, accepted.status) == (400, 200)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"datastore": {"type": "nope"}}, 404),
        ({"datastore": {"type": "postgresql", "version": "nope"}}, 400),
        ({"configuration": "nope"}, 404),
        ({"restorePoint": {"backupRef": "nope"}}, 404),
        ({"modules": [{"id": "nope"}]}, 404),
        ({"nics": [{"network_id": "nope"}]}, 501),
        ({"locality": "affinity"}, 501),
        ({"volume": {"size": 26}}, 413),
        ({"volume": {"size": 10**39}}, 413),
    ],
)
async def test_what_cannot_be_had_gets_troves_code(client, control_plane, changes, status):
    answer = await client.send("POST", "/instances", changed(**changes))

    assert answer.status == status, answer.text
    assert control_plane.created == []


@pytest.mark.parametrize(
    "name", ["データベース", "Ünïcode 1", "база", "a🦄", "a" * 255, "<b>1</b>"]
)
async def test_instance_may_have_a_name_in_any_script(client, name):
    created = await client.send("POST", "/instances", changed(name=name))
    instance_id = created.json["instance"]["id"]
    renamed = await client.send("PUT", f"/instances/{instance_id}", {"instance": {"name": name}})
    shown = await client.send("GET", f"/instances/{instance_id}")

    assert (created.status, renamed.status) == (200, 202)
    assert shown.json["instance"]["name"] == name


@pytest.mark.parametrize("name", ["データ", "Ünï", 'a"b', "a'b; --", "a b", "🦄", "x" * 63])
async def test_database_and_user_may_have_any_legal_name(client, control_plane, name):
    users = [{"name": name, "password": "πάσσ🦄", "databases": [{"name": name}]}]
    answer = await client.send(
        "POST", "/instances", changed(databases=[{"name": name}], users=users)
    )

    assert answer.status == 200, answer.text
    assert control_plane.created[0].databases[0].name == name
    assert control_plane.created[0].users[0].verifier.startswith("SCRAM-SHA-256$4096:")


async def test_large_body_is_refused_declared_or_not(client):
    async def chunks():
        for _ in range(64):
            yield b" " * 16_384

    headers = {"Content-Type": "application/json"}
    declared = await client.send("POST", "/instances", data=b" " * (1 << 20), headers=headers)
    streamed = await client.send("POST", "/instances", data=chunks(), headers=headers)

    assert (declared.status, streamed.status) == (413, 413)
    assert declared.json["overLimit"]["code"] == 413


async def test_compressed_body_is_refused_before_it_can_grow(client):
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    bomb = gzip.compress(b" " * (64 << 20))

    answer = await client.send("POST", "/instances", data=bomb, headers=headers)

    assert answer.status == 415


@pytest.mark.parametrize("kind", ["text/plain", "text/xml", "nonsense", "a/b; charset"])
async def test_body_of_another_type_is_refused(client, kind):
    headers = {"Content-Type": kind}
    answer = await client.send("POST", "/instances", data=b"{}", headers=headers)

    assert answer.status == 415
    assert "application/json" in answer.message


RAW_TARGETS = [
    b"/v1.0/demo/instances/%",
    b"/v1.0/demo/instances/%zz",
    b"/v1.0/demo/instances/%ff%fe",
    b"/v1.0/demo/instances/%00",
    b"/v1.0/demo/instances/%ed%a0%80",
    b"/v1.0/demo/instances/\xff\xfe",
    b"/v1.0/demo/instances/a%2fb",
    b"/v1.0/demo/instances/" + b"a" * 7000,
    b"/v1.0/demo/instances/..%2f..%2fetc",
    b"/v1.0/demo/instances/{id}",
    b"/v1.0/demo/instances?limit=0",
    b"/v1.0/demo/instances?limit=-1",
    b"/v1.0/demo/instances?limit=x",
    b"/v1.0/demo/instances?limit=%d9%a3",
    b"/v1.0/demo/instances?marker=%00",
    b"/v1.0/demo/instances?marker=" + b"a" * 300,
    b"/v1.0/DEMO/instances",
    b"/v1.0/%00/instances",
    b"/v1.0/a%2fb/instances",
    b"/v1.0/" + b"p" * 65 + b"/instances",
    b"/v1.0/demo/flavors/%00",
    b"/v1.0/demo/datastores/%ff",
    b"/v1.0/demo/datastores/postgresql/versions/%ff",
    b"/v1.0/demo/operations/%ff",
    b"/v1.0/demo/instances/%ff/operations",
    b"/v1.0/demo/nosuch",
    b"//v1.0/demo/instances",
    b"http://[::1/v1.0/demo/instances",
    b"*",
    b"nonsense",
]


@pytest.mark.parametrize("target", RAW_TARGETS)
@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"PUT"])
async def test_odd_address_is_the_clients_mistake(client, method, target):
    status = await send_raw(
        client,
        method + b" " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    )

    assert 400 <= status < 500


RAW_REQUESTS = {
    "huge limit": b"GET /v1.0/demo/instances?limit=" + b"9" * 6000 + b" HTTP/1.1\r\n"
    b"Host: localhost\r\nConnection: close\r\n\r\n",
    "broken query": b"GET /v1.0/demo/instances?marker=%ff&%fe=%zz HTTP/1.1\r\n"
    b"Host: localhost\r\nConnection: close\r\n\r\n",
    "no host": b"GET /v1.0/demo/instances HTTP/1.0\r\n\r\n",
    "unknown method": b"BREW / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "bad length": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    "unknown expectation": b"POST /v1.0/demo/instances HTTP/1.1\r\nHost: localhost\r\n"
    b"Expect: miracles\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
    "odd host": b"GET /v1.0/demo/flavors HTTP/1.1\r\nHost: [::1\r\nConnection: close\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    "bad chunks": b"POST /v1.0/demo/instances HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n{}\r\n",
    "bad request id": b"GET /v1.0/demo/instances/x HTTP/1.1\r\nHost: localhost\r\n"
    b"X-OpenStack-Request-Id: \xff\xff\r\nConnection: close\r\n\r\n",
    "bad idempotency key": b"DELETE /v1.0/demo/instances/x HTTP/1.1\r\nHost: localhost\r\n"
    b"X-Idempotency-Key: \xff\xff\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("what", RAW_REQUESTS)
async def test_broken_http_is_the_clients_mistake(client, what):
    status = await send_raw(client, RAW_REQUESTS[what])

    assert status < 500


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_wrong_method_is_404_as_in_trove(client, method):
    answer = await client.send(method, "/instances")

    assert answer.status == 404
    assert answer.json["itemNotFound"]["message"] == "The resource could not be found."


async def test_slow_body_is_given_up(control_plane):
    async with running_rest(control_plane, body_timeout=SHORT) as client:
        status = await send_raw(
            client,
            b"POST /v1.0/demo/instances HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        )

    assert status == 408


async def test_web_page_cannot_use_its_visitors_loopback(client):
    page = await client.send("GET", "/instances", headers={"Origin": "https://evil.example"})
    rebound = await client.send("GET", "/instances", headers={"Host": "evil.example:8779"})
    plain = await client.send("GET", "/instances", headers={"Host": "localhost:8779"})

    assert (page.status, rebound.status, plain.status) == (403, 403, 200)


async def send_raw(client: RestClient, request: bytes) -> int:
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        try:
            writer.write(request)
            line = await reader.readline()
        finally:
            writer.close()
            await writer.wait_closed()
    return int(line.split()[1])
