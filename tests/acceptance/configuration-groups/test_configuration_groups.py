"""A configuration group's life over REST, with a real PostgreSQL behind it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.installation import Installation, eventually
from trovectl import procfs


@pytest.fixture(scope="module")
def instance(shared: Installation) -> Iterator[dict[str, Any]]:
    instance_id = shared.create("configured")
    yield shared.await_healthy(instance_id)
    shared.request("DELETE", f"/instances/{instance_id}")
    shared.await_gone(instance_id)


def make_group(shared: Installation, values: dict[str, Any]) -> str:
    body = {"configuration": {"name": "g", "values": values}}
    status, answer = shared.request("POST", "/configurations", body)
    assert status == 200, answer
    return answer["configuration"]["id"]


def change(shared: Installation, instance_id: str, configuration: str | None) -> dict[str, Any]:
    """Attach or detach, and the operation once it has ended."""
    status, answer = shared.request(
        "PUT", f"/instances/{instance_id}", {"instance": {"configuration": configuration}}
    )
    assert status == 202, answer
    return newest_operation(shared, instance_id)


def newest_operation(shared: Installation, instance_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        newest = shared.operations(instance_id)[0]
        return newest if newest["state"] in ("SUCCEEDED", "FAILED", "STUCK") else None

    found = eventually(ended, "the operation's end")
    assert found["kind"] == "apply_configuration"
    return found


def show(shared: Installation, instance: dict[str, Any], name: str) -> str:
    return shared.query(instance["ip"][0], f"SHOW {name}")


def kill_engine(shared: Installation, instance_id: str) -> None:
    """The engine's next start, without asking for one."""
    before = shared.instance(instance_id)["engine"]["start_count"]
    procfs.send(shared.postmaster(instance_id), signal.SIGKILL)
    eventually(
        lambda: shared.instance(instance_id)["engine"]["start_count"] > before,
        "the engine started again",
    )
    eventually(
        lambda: shared.instance(instance_id)["engine"]["state"] == "HEALTHY", "a healthy engine"
    )


def test_dynamic_values_are_in_force_without_a_restart(shared, instance):
    identity = instance["id"]
    postmaster = shared.postmaster(identity)
    group = make_group(shared, {"work_mem": 8192})
    assert change(shared, identity, group)["state"] == "SUCCEEDED"
    assert show(shared, instance, "work_mem") == "8MB"
    assert shared.instance(identity)["configuration"]["id"] == group

    body = {"configuration": {"values": {"work_mem": 16384}}}
    assert shared.request("PATCH", f"/configurations/{group}", body)[0] == 200
    assert newest_operation(shared, identity)["state"] == "SUCCEEDED"
    assert show(shared, instance, "work_mem") == "16MB"

    assert shared.request("DELETE", f"/configurations/{group}")[0] == 400
    assert change(shared, identity, None)["state"] == "SUCCEEDED"
    assert show(shared, instance, "work_mem") == "4MB"
    assert shared.request("DELETE", f"/configurations/{group}")[0] == 202
    assert shared.postmaster(identity) == postmaster
    assert shared.instance(identity)["status"] == "ACTIVE"


def test_static_values_wait_for_the_next_start_and_the_status_says_so(shared, instance):
    identity = instance["id"]
    before = show(shared, instance, "max_connections")
    group = make_group(shared, {"max_connections": 77})
    assert change(shared, identity, group)["state"] == "SUCCEEDED"
    assert shared.instance(identity)["status"] == "RESTART_REQUIRED"
    assert show(shared, instance, "max_connections") == before

    kill_engine(shared, identity)
    eventually(lambda: shared.instance(identity)["status"] == "ACTIVE", "no restart is due")
    assert show(shared, instance, "max_connections") == "77"
    change(shared, identity, None)
    kill_engine(shared, identity)
    assert show(shared, instance, "max_connections") == before


def test_values_with_which_it_does_not_start_are_taken_back(shared, instance):
    identity = instance["id"]
    group = make_group(shared, {"huge_pages": "on", "work_mem": 8192})
    assert change(shared, identity, group)["state"] == "SUCCEEDED"
    kill_engine(shared, identity)

    def told() -> str | None:
        reason = shared.instance(identity).get("operating_status_reason", "")
        return reason if reason.startswith("configuration_reverted: ") else None

    assert "PostgreSQL does not start" in eventually(told, "why the group is not in force")
    found = shared.instance(identity)
    assert (found["status"], found["operating_status"]) == ("ACTIVE", "HEALTHY")
    assert show(shared, instance, "huge_pages") == "try"
    assert show(shared, instance, "work_mem") == "4MB"
    assert change(shared, identity, None)["state"] == "SUCCEEDED"
    eventually(
        lambda: "operating_status_reason" not in shared.instance(identity), "nothing to explain"
    )


def test_what_the_engine_refuses_fails_with_its_words_and_changes_nothing(shared, instance):
    identity = instance["id"]
    group = make_group(shared, {"work_mem": 8192, "timezone": "Nowhere/At All"})
    operation = change(shared, identity, group)
    assert operation["state"] == "FAILED"
    assert "Nowhere/At All" in operation["fault"]["message"]
    found = shared.instance(identity)
    assert (found["status"], found["operating_status"]) == ("ACTIVE", "HEALTHY")
    assert show(shared, instance, "work_mem") == "4MB"
    assert change(shared, identity, None)["state"] == "SUCCEEDED"
    assert "fault" not in shared.instance(identity)
