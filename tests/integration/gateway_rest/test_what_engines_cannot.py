"""Clusters and backup strategies: Trove's checks first, then an honest answer."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.rest_control_plane import FakeControlPlane, build_datastore
from tests.fakes.rest_server import running_rest

CLUSTER: dict[str, Any] = {
    "name": "c",
    "datastore": {"type": "mysql", "version": "8.0"},
    "instances": [{"flavorRef": "1", "volume": {"size": 1}}] * 3,
}


@pytest.fixture
async def client():
    datastore = build_datastore("mysql", [("8.0", "8.0", True)], "mysql")
    async with running_rest(FakeControlPlane([datastore])) as client:
        yield client


async def test_a_cluster_is_refused_in_troves_words(client):
    answer = await client.send("POST", "/clusters", {"cluster": CLUSTER})

    assert answer.status == 501
    assert answer.message == "Clusters not supported for mysql-8.0."


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"name": ""}, 400),
        ({"datastore": None}, 400),
        ({"datastore": {"type": "mysql"}}, 400),
        ({"datastore": {"type": "nope", "version": "1"}}, 404),
        ({"datastore": {"type": "mysql", "version": "nope"}}, 400),
        ({"instances": {}}, 400),
        ({"instances": [1]}, 400),
    ],
)
async def test_a_mistake_in_a_cluster_is_told_first(client, changes, status):
    answer = await client.send("POST", "/clusters", {"cluster": CLUSTER | changes})

    assert answer.status == status, answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/clusters/x"),
        ("POST", "/clusters/x"),
        ("DELETE", "/clusters/x"),
        ("GET", "/clusters/x/instances/y"),
        ("GET", "/clusters/x/root"),
        ("POST", "/clusters/x/root"),
        ("DELETE", "/clusters/x/root"),
    ],
)
async def test_no_cluster_is_ever_found(client, method, path):
    answer = await client.send(method, path)

    assert (answer.status, answer.message) == (404, "Cluster 'x' cannot be found.")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/backup_strategies", None, 200),
        ("GET", "/backup_strategies?project_id=demo", None, 200),
        ("GET", "/backup_strategies?project_id=other", None, 403),
        ("POST", "/backup_strategies", {"backup_strategy": {}}, 400),
        ("POST", "/backup_strategies", {}, 400),
        ("POST", "/backup_strategies", {"backup_strategy": {"swift_container": "c"}}, 501),
        ("DELETE", "/backup_strategies", None, 404),
        ("DELETE", "/backup_strategies?project_id=other", None, 403),
    ],
)
async def test_backup_strategies_are_checked_though_there_are_none(
    client, method, path, body, status
):
    answer = await client.send(method, path, body)

    assert answer.status == status, answer.text
