"""kill -9 of the whole tree, at rest and in the middle of work; then a new `up`."""

from __future__ import annotations

import pytest

from tests.acceptance.installation import eventually, installation


@pytest.fixture
def own():
    with installation() as made:
        yield made


def test_databases_come_back_after_a_power_cut_and_ctrl_c_leaves_nothing(own):
    instance_id = own.create("survivor")
    (host,) = own.await_healthy(instance_id)["ip"]
    own.query(host, "CREATE TABLE kept AS SELECT 42 AS answer")
    own.kill_everything()

    own.up()
    # The last report before the cut is still fresh, so REST's HEALTHY proves nothing here.
    eventually(
        lambda: own.psql(host, "SELECT answer FROM kept").stdout.strip() == "42",
        "the database back with its data",
    )
    assert own.await_healthy(instance_id)["ip"] == [host]

    assert own.stop() == 0
    assert own.processes() == []


def test_a_killed_supervisor_alone_is_succeeded_by_a_new_one(own):
    instance_id = own.create("survivor")
    (host,) = own.await_healthy(instance_id)["ip"]
    postmaster = own.postmaster(instance_id)
    own.supervisor.kill()
    own.supervisor.wait(10)
    own.supervisor.stdout.close()

    own.up()
    own.await_healthy(instance_id)
    assert own.postmaster(instance_id) == postmaster  # the database was never interrupted
    assert own.query(host, "SELECT 1") == "1"
    names = [process["name"] for process in own.status()["processes"]]
    assert len(names) == len(set(names)) == 5


def test_a_create_that_was_cut_in_the_middle_ends_well(own):
    instance_id = own.create("interrupted")
    eventually(
        lambda: any(
            step["name"] == "boot_guest" for step in own.operations(instance_id)[0]["steps"]
        ),
        "boot_guest begun",
    )
    own.kill_everything()

    own.up()
    (host,) = own.await_healthy(instance_id)["ip"]
    assert own.query(host, "SELECT current_user") == "ada"
    (operation,) = own.operations(instance_id)
    assert operation["state"] == "SUCCEEDED"


def test_a_second_up_on_the_same_state_is_refused_with_the_pid(own):
    import subprocess
    import sys

    second = subprocess.run(
        [sys.executable, "-m", "trovectl", "up", "--state-dir", str(own.state)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert second.returncode == 1
    assert str(own.supervisor.pid) in second.stderr
