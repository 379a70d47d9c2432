"""A newcomer's first database: the real client, real processes, a real engine, real TLS."""

from __future__ import annotations

import json
import signal

import pytest

from tests.acceptance.installation import Installation, eventually
from trovectl import procfs


@pytest.fixture(scope="module")
def created(shared: Installation):
    """An instance made with `openstack database instance create`, healthy."""
    answer = shared.openstack(
        *("instance", "create", "orders", "--flavor", "db.tiny", "--size", "1"),
        *("--datastore", "postgresql", "--databases", "app", "--users", "ada:s3cret-Pass"),
        *("-f", "json"),
    )
    assert answer["status"] == "BUILD"
    yield shared.await_healthy(answer["id"])
    shared.request("DELETE", f"/instances/{answer['id']}")
    shared.await_gone(answer["id"])


def test_the_client_lists_and_shows_it(shared, created):
    listed = shared.openstack("instance", "list", "-f", "json")
    assert [(row["Name"], row["Status"]) for row in listed if row["ID"] == created["id"]] == [
        ("orders", "ACTIVE")
    ]
    shown = shared.openstack("instance", "show", "orders", "-f", "json")
    assert shown["operating_status"] == "HEALTHY"
    assert shown["datastore"] == "postgresql"


def test_its_user_connects_with_full_verification(shared, created):
    (host,) = created["ip"]
    assert shared.query(host, "SELECT current_user || '@' || current_database()") == "ada@app"
    assert shared.query(host, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "t"


def test_it_refuses_plaintext_wrong_passwords_and_other_names(shared, created):
    (host,) = created["ip"]
    refused = shared.psql(host, "SELECT 1", tls="sslmode=disable")
    assert refused.returncode
    assert "no encryption" in refused.stderr
    wrong = shared.psql(host, "SELECT 1", password="another")
    assert wrong.returncode
    assert "password authentication failed" in wrong.stderr
    other = shared.psql("localhost", "SELECT 1", tls=f"hostaddr={host} sslmode=verify-full")
    assert other.returncode
    assert "does not match host name" in other.stderr


def test_every_step_of_its_creation_can_be_read(shared, created):
    (operation,) = shared.operations(created["id"])
    assert operation["state"] == "SUCCEEDED"
    assert [step["name"] for step in operation["steps"]] == [
        "allocate_address",
        "register_identity",
        "boot_guest",
        "await_agent",
        "prepare_engine",
        "await_healthy",
        "finish",
    ]
    assert {step["state"] for step in operation["steps"]} == {"SUCCEEDED"}
    events = json.loads(shared.trovectl("events", "orders", "--output", "json"))
    assert "prepare_engine" in json.dumps(events)


def test_a_killed_engine_comes_back_with_its_data_and_rest_shows_it(shared, created):
    (host,) = created["ip"]
    shared.query(host, "CREATE TABLE kept AS SELECT 42 AS answer")
    before = shared.instance(created["id"])["engine"]["start_count"]
    procfs.send(shared.postmaster(created["id"]), signal.SIGKILL)

    def recovered():
        found = shared.instance(created["id"])
        return found["engine"]["start_count"] > before and found["operating_status"] == "HEALTHY"

    eventually(recovered, "the engine back and REST showing it")
    assert shared.query(host, "SELECT answer FROM kept") == "42"


def test_a_killed_agent_comes_back_and_leaves_the_engine_alone(shared, created):
    (host,) = created["ip"]
    postmaster = shared.postmaster(created["id"])
    (guest,) = (each for each in shared.status()["guests"] if each["instance"] == created["id"])
    agent = guest["agent_pid"]
    procfs.send(procfs.identify(agent), signal.SIGKILL)

    def back():
        (now,) = (each for each in shared.status()["guests"] if each["instance"] == created["id"])
        return now["agent_pid"] not in (0, agent)

    eventually(back, "another agent")
    shared.await_healthy(created["id"])
    assert shared.postmaster(created["id"]) == postmaster
    assert shared.query(host, "SELECT 1") == "1"


def test_a_rename_is_seen(shared, created):
    status, _ = shared.request(
        "PUT", f"/instances/{created['id']}", {"instance": {"name": "orders-ä"}}
    )
    assert status == 202
    assert shared.instance(created["id"])["name"] == "orders-ä"
    shared.request("PUT", f"/instances/{created['id']}", {"instance": {"name": "orders"}})


def test_a_deleted_instance_leaves_nothing(shared):
    quota = shared.request("GET", "/limits")[1]
    instance_id = shared.create("short-lived")
    found = shared.await_healthy(instance_id)
    (host,) = found["ip"]
    shared.openstack("instance", "delete", instance_id)
    shared.await_gone(instance_id)
    folder = shared.state / "guests" / instance_id
    eventually(lambda: not folder.exists(), "the guest's files removed")
    assert procfs.under(folder) == []
    assert shared.psql(host, "SELECT 1").returncode
    assert shared.request("GET", "/limits")[1]["limits"][0] == quota["limits"][0]


def test_status_is_readable(shared, created):
    text = shared.trovectl("status")
    for word in ("issuer", "conductor", "taskmanager", "gateway", "api", "orders"):
        assert word in text
    assert created["id"][:8] in text
