"""One request, followed from REST to the agent; one scrape point for each process."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.installation import PROJECT, Installation, eventually

GLOBAL_REQUEST_ID = "req-11111111-2222-3333-4444-555555555555"
DOCUMENTED = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
# Which of a process's names must show that it did something when a database was made.
COUNTED = {
    "api": 'trove_rest_seconds_count{code="200",method="POST",route="/v1.0/{project}/instances"}',
    "conductor": 'trove_conductor_operations_total{state="OPERATION_STATE_SUCCEEDED"}',
    "taskmanager": 'trove_flows_ended_total{kind="create_instance",result="done"}',
    "gateway": 'trove_gateway_enrolments_total{kind="enrol",result="passed"}',
    "issuer": 'trove_issuer_enrolments_total{result="enrolled"}',
}


@pytest.fixture(scope="module")
def created(shared: Installation) -> tuple[str, str]:
    """A database, and the id of the request that made it."""
    body = {
        "instance": {
            "name": "followed",
            "flavorRef": "1",
            "volume": {"size": 1},
            "datastore": {"type": "postgresql"},
        }
    }
    host, port = shared.rest.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    headers = {"Content-Type": "application/json", "X-OpenStack-Request-ID": GLOBAL_REQUEST_ID}
    connection.request("POST", f"/v1.0/{PROJECT}/instances", json.dumps(body), headers)
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    assert response.status == 200, content
    made = str(content["instance"]["id"])
    shared.await_healthy(made)
    return made, response.headers["X-OpenStack-Request-ID"]


@pytest.fixture(scope="module")
def instance_id(created: tuple[str, str]) -> str:
    return created[0]


@pytest.fixture(scope="module")
def request_id(created: tuple[str, str]) -> str:
    return created[1]


def lines(plane: Installation, name: str) -> list[dict[str, Any]]:
    """Every line of a log; fails on one that is not a JSON object."""
    found = []
    for line in (plane.state / "logs" / f"{name}.log").read_text().splitlines():
        try:
            found.append(dict(json.loads(line)))
        except ValueError:
            pytest.fail(f"{name} wrote a line that is not JSON: {line!r}")
    return found


def test_one_request_id_is_in_the_log_of_every_process_it_passed(shared, instance_id, request_id):
    agent = f"guest-{instance_id}-agent"
    for name in ("api", "conductor", "taskmanager", "gateway", agent):
        eventually(
            lambda name=name: any(
                each.get("request_id") == request_id for each in lines(shared, name)
            ),
            f"{request_id} in the log of {name}",
            within=10,
        )
    assert any(
        (each.get("request_id"), each.get("global_request_id")) == (request_id, GLOBAL_REQUEST_ID)
        for each in lines(shared, "api")
    )


def test_lines_of_the_request_name_instance_and_operation(shared, instance_id, request_id):
    (operation,) = [
        each["id"]
        for each in shared.operations(instance_id)
        if each.get("kind", each.get("action")) == "create_instance"
    ]
    for name, wanted in {
        "conductor": {"instance": instance_id, "operation": operation},
        "taskmanager": {"instance": instance_id, "operation": operation},
        "gateway": {"instance": instance_id, "operation": operation},
        f"guest-{instance_id}-agent": {"instance": instance_id, "operation": operation},
    }.items():
        own = [each for each in lines(shared, name) if each.get("request_id") == request_id]
        assert any(wanted.items() <= each.items() for each in own), (name, own)


@pytest.mark.usefixtures("instance_id")
def test_every_line_of_every_process_is_json_with_its_standing_fields(shared):
    # issuer-init is a command run once: its table is for people.
    logs = {path.stem for path in (shared.state / "logs").glob("*.log")} - {"issuer-init"}
    assert {"api", "conductor", "taskmanager", "gateway", "issuer"} <= logs
    for name in logs:
        for line in lines(shared, name):
            assert {"time", "level", "process", "logger", "message"} <= line.keys(), (name, line)


def scrape(address: str) -> str:
    host, port = address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.status == 200
    return text


@pytest.mark.usefixtures("instance_id")
@pytest.mark.parametrize("name", COUNTED)
def test_every_process_has_one_scrape_point_that_status_shows(shared, name):
    (process,) = (each for each in shared.status()["processes"] if each["name"] == name)
    endpoints = dict(pair.split("=", 1) for pair in process["endpoints"])
    text = ""

    def counted() -> str | None:
        nonlocal text
        text = scrape(endpoints[f"{name}-metrics"])
        found = re.search(rf"^{re.escape(COUNTED[name])} ([0-9.e+]+)$", text, re.MULTILINE)
        return found[1] if found and float(found[1]) else None

    assert eventually(counted, f"{COUNTED[name]} of {name} counts", within=10)
    documented = set(re.findall(r"`(trove_\w+)`", DOCUMENTED.read_text()))
    kinds = re.findall(r"^# TYPE (trove_\w+) (\w+)$", text, re.MULTILINE)
    assert kinds
    # A counter's creation time is the client library's own addition.
    named = {found for found, kind in kinds if not found.endswith("_created")}
    assert named <= documented
