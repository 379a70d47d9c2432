"""The OpenAPI document: every route in it, what it says true of what is sent and answered."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from gateway.rest.app import described_routes
from gateway.rest.openapi.routes import ROUTES
from gateway.rest.openapi.schemas import SCHEMAS
from gateway.rest.routes import operation_events
from tests.fakes import api_fuzz
from tests.fakes.rest_admin import ADMIN_PROJECT, running_rest_with_admins
from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_server import RestClient, running_rest
from tools import generate_openapi

PAIRS = json.loads(Path(__file__).with_name("recorded_pairs.json").read_text())
NEW = {"instance": {"name": "orders", "flavorRef": "1", "volume": {"size": 1}}}
# Requests to each operation, valid ones and as many invalid ones; `make test-clients` sends more.
EXAMPLES = int(os.environ.get("TROVE_TEST_FUZZ_EXAMPLES", "5"))


@pytest.fixture
async def client():
    async with running_rest(FakeControlPlane()) as running:
        yield running


def document() -> dict[str, Any]:
    return json.loads(generate_openapi.text())


def validator(schema_name: str) -> jsonschema_rs.Validator:
    schema = {"$ref": f"#/components/schemas/{schema_name}", "components": {"schemas": SCHEMAS}}
    return jsonschema_rs.validator_for(schema)


def test_every_route_that_is_carried_out_is_declared():
    routes = described_routes(FakeControlPlane())
    missing = [(method, path) for method, path, _ in routes if (method, path) not in ROUTES]
    assert missing == [], "add a line for each to gateway/rest/openapi/routes.py"


def test_every_declared_route_exists_and_names_schemas_that_exist():
    routes = {(method, path) for method, path, _ in described_routes(FakeControlPlane())}
    assert set(ROUTES) <= routes
    named = {name for each in ROUTES.values() for name in (each.body, each.answer) if name}
    assert named <= set(SCHEMAS)


def test_the_committed_document_is_fresh():
    assert generate_openapi.TARGET.read_text() == generate_openapi.text(), (
        "run `python tools/generate_openapi.py`"
    )


async def test_the_document_is_served_to_anybody(client):
    answer = await client.send("GET", f"{client.root}/v1.0/openapi.json")
    assert answer.json == document()
    assert answer.json["openapi"] == "3.1.0"


def recorded_bodies() -> list[tuple[str, str, str, str, Any]]:
    """(label, method, path, schema, body) of each recorded body sent to a declared route."""
    found = []
    for pair in PAIRS:
        method, _, full = pair["req"].partition(" ")
        parts = full.partition("?")[0].split("/")[3:]
        for (declared, path), described in ROUTES.items():
            template = path.split("/")[1:]
            fits = len(template) == len(parts) and all(
                ours in (theirs, "{id}") for ours, theirs in zip(template, parts, strict=True)
            )
            says = described.body not in ("", "Any")
            if fits and declared == method and says and pair["body"] is not None:
                found.append((pair["label"], method, path, described.body, pair["body"]))
    return found


# What no schema says: names of engines, what is reserved, two of one name, a flavor's address.
MEANING = (
    "reserved list",
    "control character",
    "Base64",
    "letter or digit",
    "IPv4 network",
    "must name",
)


@pytest.mark.parametrize("recorded", recorded_bodies(), ids=lambda recorded: recorded[0])
async def test_schema_and_validation_agree_on_what_was_recorded(client, recorded):
    _, method, path, schema, body = recorded
    made = (await client.send("POST", "/instances", NEW)).json["instance"]["id"]
    answer = await client.send(method, path.replace("{id}", made), body)
    allowed = validator(schema).is_valid(body)

    if answer.status < 300:
        assert allowed, list(validator(schema).iter_errors(body))
    if not allowed:
        assert answer.status >= 400, answer.text
    if answer.status == 400 and "Validation error" in answer.message:
        assert not allowed or any(word in answer.message for word in MEANING), answer.message


@pytest.mark.parametrize(
    ("method", "schema"), [("PUT", "InstanceReplace"), ("PATCH", "InstanceEdit")]
)
async def test_schema_knows_what_is_ours_to_change(client, method, schema):
    made = (await client.send("POST", "/instances", NEW)).json["instance"]["id"]
    body = {"instance": {"deletion_protection": True}}
    assert (await client.send(method, f"/instances/{made}", body)).status == 202
    assert validator(schema).is_valid(body)


async def fuzz_targets(client: RestClient) -> dict[str, str]:
    """Values of path parameters that exist; an id's by the collection before it."""
    project = client.for_project(ADMIN_PROJECT)
    made = await project.send("POST", "/instances", NEW)
    module = {"name": "m", "module_type": "ping", "contents": "YQ=="}
    datastore = (await project.send("GET", "/datastores")).json["datastores"][0]
    return {
        "project": ADMIN_PROJECT,
        "instances": made.json["instance"]["id"],
        "operations": made.headers["X-Trove-Operation-Id"],
        "modules": (await project.send("POST", "/modules", {"module": module})).json["module"][
            "id"
        ],
        "flavors": "1",
        "quotas": ADMIN_PROJECT,
        "datastore-versions": datastore["versions"][0]["id"],
        "datastore": datastore["id"],
        "version": datastore["versions"][0]["id"],
    }


async def test_what_the_document_allows_and_forbids_never_breaks_the_api(monkeypatch):
    # A stream ends with its time, and a fuzzer has none to wait.
    bounds = operation_events.Bounds(lifetime=dt.timedelta())
    monkeypatch.setattr(operation_events, "DEFAULT", bounds)
    fuzz = api_fuzz.Fuzz(examples=EXAMPLES)
    # An administrator gets past the refusals of others.
    async with running_rest_with_admins(FakeControlPlane()) as client:
        known = await fuzz_targets(client)
        sent = await asyncio.to_thread(fuzz.run, document(), f"{client.root}/v1.0", known)
    assert sent > len(ROUTES)


async def test_who_starts_an_operation_is_told_which(client):
    created = await client.send("POST", "/instances", NEW)
    operation = await client.send("GET", f"/operations/{created.headers['X-Trove-Operation-Id']}")
    assert operation.json["operation"]["instance_id"] == created.json["instance"]["id"]
