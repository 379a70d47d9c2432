"""When an action may begin: Trove's `validate_can_perform_action`, case by case."""

from __future__ import annotations

import pytest

from conductor.status import Task, obstacle_to_action


def obstacle(task="NONE", engine_state="HEALTHY", *, has_running_backup=False):
    return obstacle_to_action(
        task=task, engine_state=engine_state, has_running_backup=has_running_backup
    )


@pytest.mark.parametrize("task", [task for task in Task if task is not Task.NONE])
def test_every_task_but_a_wanted_restart_forbids_an_action(task):
    assert obstacle(task.value) == ("" if task is Task.RESTART_REQUIRED else task.value)


@pytest.mark.parametrize("state", ["HEALTHY", "BLOCKED", "STOPPED", "CRASHED", "FAILED"])
def test_a_prepared_engine_may_be_acted_on_up_or_down(state):
    assert obstacle(engine_state=state) == ""


@pytest.mark.parametrize(
    ("state", "word"),
    [("", "UNKNOWN"), ("NEW", "NEW"), ("PREPARING", "BUILD"), ("STARTING", "RESTARTING")],
)
def test_an_engine_on_its_way_is_left_alone(state, word):
    assert obstacle(engine_state=state) == word


def test_a_running_backup_forbids_an_action():
    assert obstacle(has_running_backup=True) == "BACKUP"
