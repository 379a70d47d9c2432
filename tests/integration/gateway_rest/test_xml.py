"""The API in XML: asked for, sent, refused, and never instead of JSON unasked."""

from __future__ import annotations

import pytest

from gateway.rest.xml import NAMESPACE, from_xml, to_xml
from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_server import RestClient, running_rest

ACCEPT = {"Accept": "application/xml"}
SENT = {"Content-Type": "application/xml"}
NEW = {"instance": {"name": "orders", "flavorRef": "1", "volume": {"size": 1}}}


@pytest.fixture
async def client():
    async with running_rest(FakeControlPlane()) as running:
        yield running


async def create(client: RestClient, **headers: str):
    return await client.send(
        "POST", "/instances", data=to_xml(NEW).encode(), headers=SENT | headers
    )


async def test_an_instance_is_created_and_read_in_xml(client):
    created = await create(client, **ACCEPT)
    instance = from_xml(created.text)["instance"]
    shown = await client.send("GET", f"/instances/{instance['id']}", headers=ACCEPT)
    as_json = await client.send("GET", f"/instances/{instance['id']}")

    assert created.status == 200
    assert created.headers["Content-Type"] == "application/xml; charset=utf-8"
    assert from_xml(shown.text) == as_json.json
    assert as_json.headers["Vary"] == shown.headers["Vary"] == "Accept"


async def test_who_sends_xml_and_asks_for_nothing_gets_json(client):
    assert (await create(client)).json["instance"]["name"] == "orders"


async def test_every_json_list_reads_the_same_in_xml(client):
    for path in ("/instances", "/flavors", "/datastores", "/backups", "/modules"):
        as_json = await client.send("GET", path)
        as_xml = await client.send("GET", path, headers=ACCEPT)
        assert from_xml(as_xml.text) == as_json.json


async def test_errors_are_xml_too(client):
    absent = await client.send("GET", "/instances/none", headers=ACCEPT)
    unrouted = await client.send("GET", "/nothing-here", headers=ACCEPT)
    for answer in (absent, unrouted):
        assert answer.status == 404
        assert from_xml(answer.text)["itemNotFound"]["code"] == 404


async def test_an_answer_without_a_body_stays_without(client):
    made = (await create(client)).json["instance"]["id"]
    renamed = await client.send(
        "PUT", f"/instances/{made}", {"instance": {"name": "b"}}, headers=ACCEPT
    )
    assert (renamed.status, renamed.text) == (202, "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('<!DOCTYPE a [<!ENTITY a "a"><!ENTITY b "&a;&a;">]><a>&b;</a>', "document type"),
        ('<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><a>&a;</a>', "document type"),
        (f'<array xmlns="{NAMESPACE}">' * 1000, "nested deeper"),
        (f'<array xmlns="{NAMESPACE}"/>', "expected a JSON object"),
        (f'<map xmlns="{NAMESPACE}"><number key="a">{"9" * 5000}</number></map>', "a number"),
        ("<a", "not well-formed"),
    ],
)
async def test_hostile_xml_is_a_bad_request_with_its_reason(client, text, why):
    refused = await client.send("POST", "/instances", data=text.encode(), headers=SENT)
    assert refused.status == 400
    assert why in refused.message


async def test_a_huge_body_is_refused_before_it_is_parsed(client):
    huge = b"<a>" + b" " * 200_000
    assert (await client.send("POST", "/instances", data=huge, headers=SENT)).status == 413
