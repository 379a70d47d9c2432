"""Guests that never call home, and guests that fall silent."""

from __future__ import annotations

import os
import signal

from tests.acceptance.installation import eventually, installation


def test_a_guest_that_never_calls_home_ends_in_error_that_says_what_to_do():
    # Nobody listens on port 1: the agent starts and reaches nothing.
    with installation(
        taskmanager__agent_deadline="5",
        taskmanager__enrolment_endpoints='["127.0.0.1:1"]',
    ) as plane:
        instance_id = plane.create("lost")
        found = eventually(
            lambda: next(
                iter([i for i in [plane.instance(instance_id)] if i["status"] == "ERROR"]), None
            ),
            "ERROR",
            within=60,
        )
        assert "never called home" in found["fault"]["message"]
        (operation,) = plane.operations(instance_id)
        assert operation["state"] == "FAILED"
        details = operation["fault"]["details"]
        assert "await_agent" in details
        assert "trovectl events" in details or "openstack database instance delete" in details
        states = {step["name"]: step["state"] for step in operation["steps"]}
        assert states["await_agent"] == "FAILED"
        assert states["boot_guest"] == "UNDONE"
        assert not (plane.state / "guests" / instance_id).exists()
        # It can be deleted, and its quota comes back.
        status, _ = plane.request("DELETE", f"/instances/{instance_id}")
        assert status == 202
        plane.await_gone(instance_id)


def test_a_silent_agent_shows_with_the_reason_and_recovers():
    with installation(
        conductor__presence_deadline="6", conductor__heartbeat_interval="1"
    ) as plane:
        instance_id = plane.create("quiet")
        plane.await_healthy(instance_id)
        (guest,) = plane.status()["guests"]
        os.kill(guest["agent_pid"], signal.SIGSTOP)
        try:
            found = eventually(
                lambda: next(
                    iter(
                        i
                        for i in [plane.instance(instance_id)]
                        if i["operating_status"] == "ERROR"
                    ),
                    None,
                ),
                "operating_status ERROR",
                within=30,
            )
            assert found["status"] == "ACTIVE"  # Terraform's provider knows no other
            assert "no report from its guest agent" in found["operating_status_reason"]
        finally:
            os.kill(guest["agent_pid"], signal.SIGCONT)
        plane.await_healthy(instance_id)
