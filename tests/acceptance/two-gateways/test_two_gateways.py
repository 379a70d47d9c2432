"""An installation with two guest gateways: one dies, nobody notices."""

from __future__ import annotations

import os
import signal
import sqlite3

from tests.acceptance.installation import Installation, eventually, installation


def gateway_of(plane: Installation, instance_id: str) -> str:
    """The gateway that holds the guest's session."""
    database = sqlite3.connect(f"file:{plane.state}/conductor/conductor.db?mode=ro", uri=True)
    try:
        rows = database.execute(
            "SELECT gateway_id FROM guest_sessions WHERE instance_id = ? AND close_time IS NULL",
            (instance_id,),
        ).fetchall()
    finally:
        database.close()
    return rows[0][0] if rows else ""


def test_agents_move_when_a_gateway_dies_and_commands_find_them():
    with installation("--gateways", "2") as plane:
        names = [each["name"] for each in plane.status()["processes"]]
        assert names == ["issuer", "conductor", "taskmanager", "gateway", "gateway-2", "api"]
        first = plane.create("first")
        plane.await_healthy(first)
        process = {"local": "gateway", "local-2": "gateway-2"}
        left = gateway_of(plane, first)
        pid = plane.pid_of(process[left])
        # It stays away until the guest has moved: stopped, it does not even refuse.
        os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: gateway_of(plane, first) not in ("", left), "the guest moved")
        assert plane.instance(first)["operating_status"] == "HEALTHY"

        # Create and delete send commands: through whichever gateway holds the guest.
        second = plane.create("second")
        plane.await_healthy(second)
        for instance_id in (first, second):
            plane.request("DELETE", f"/instances/{instance_id}")
        plane.await_gone(first)
        plane.await_gone(second)
        assert plane.stop() == 0
        assert plane.processes() == []


def test_guests_learn_of_a_gateway_that_came_later():
    with installation() as plane:
        instance_id = plane.create("early")
        plane.await_healthy(instance_id)
        plane.stop()
        plane.arguments = ("--gateways", "2")
        plane.up()
        plane.await_healthy(instance_id)
        settings = (plane.state / "guests" / instance_id / "agent.toml").read_text()
        (line,) = (each for each in settings.splitlines() if each.startswith("guest_endpoints"))
        assert line.count("127.0.0.1:") == 2
