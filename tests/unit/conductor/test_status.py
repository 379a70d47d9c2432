"""Every task, observed state and silence gives one of Trove's own words."""

from __future__ import annotations

import datetime as dt
import itertools

import pytest

from conductor.status import Status, Task, derive_status
from trove_grpc.gen.common.v1 import engine_pb2

DEADLINE = dt.timedelta(seconds=90)
STATES = [None, *engine_pb2.EngineState.values(), 99]
SILENCES = [None, dt.timedelta(0), DEADLINE, DEADLINE + dt.timedelta(microseconds=1)]
HEALTHY = engine_pb2.ENGINE_STATE_HEALTHY

# Words of Trove's API (reference 5.1, 5.2); Terraform fails on any other `status`.
STATUSES = {
    "ACTIVE", "BACKUP", "BUILD", "DETACH", "EJECT", "ERROR", "PROMOTE", "REBOOT", "RESIZE",
    "RESTART_REQUIRED", "SHUTDOWN", "UPGRADE",
}  # fmt: skip
OPERATING_STATUSES = {
    "", "BLOCKED", "BUILD", "ERROR", "FAILED", "HEALTHY", "NEW", "RESTARTING", "SHUTDOWN",
}  # fmt: skip


def derive(
    task: Task = Task.NONE,
    state: int | None = HEALTHY,
    silence: dt.timedelta | None = dt.timedelta(0),
    *,
    reason: str = "",
    has_running_backup: bool = False,
) -> Status:
    observation = None if state is None else engine_pb2.Observation(state=state, reason=reason)
    return derive_status(
        task=task.value,
        observation=observation,
        silence=silence,
        presence_deadline=DEADLINE,
        has_running_backup=has_running_backup,
    )


@pytest.mark.parametrize("task", Task)
def test_every_combination_gives_words_of_trove(task: Task) -> None:
    for state, silence, backup in itertools.product(STATES, SILENCES, (False, True)):
        shown = derive(task, state, silence, has_running_backup=backup)
        assert shown.status in STATUSES
        assert shown.operating_status in OPERATING_STATUSES
        # Only an idle instance has an operating status, and only an unhealthy one a reason.
        assert (shown.operating_status == "") == (task is not Task.NONE)
        assert bool(shown.reason) == (shown.operating_status not in ("", "HEALTHY"))


@pytest.mark.parametrize(("task", "word"), [(Task.BUILDING, "BUILD"), (Task.DELETING, "SHUTDOWN")])
def test_create_and_delete_show_one_status_whatever_the_agent_says(task: Task, word: str) -> None:
    for state, silence in itertools.product(STATES, SILENCES):
        assert derive(task, state, silence, has_running_backup=True) == Status(word)


@pytest.mark.parametrize("task", [task for task in Task if task.is_error])
def test_an_error_task_shows_error(task: Task) -> None:
    assert derive(task) == Status("ERROR")


def test_tasks_that_end_in_error_are_exactly_trove_s_and_the_failed_delete() -> None:
    assert {task.value for task in Task if task.is_error} == {
        task.value for task in Task if "ERROR" in task.value
    }
    assert not Task.BUILDING.is_error


@pytest.mark.parametrize("state", [state for state in STATES if state is not None])
def test_idle_instance_is_active_in_every_engine_state(state: int) -> None:
    assert derive(state=state).status == "ACTIVE"


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (engine_pb2.ENGINE_STATE_NEW, "NEW"),
        (engine_pb2.ENGINE_STATE_PREPARING, "BUILD"),
        (engine_pb2.ENGINE_STATE_STARTING, "RESTARTING"),
        (engine_pb2.ENGINE_STATE_HEALTHY, "HEALTHY"),
        (engine_pb2.ENGINE_STATE_BLOCKED, "BLOCKED"),
        (engine_pb2.ENGINE_STATE_STOPPED, "SHUTDOWN"),
        (engine_pb2.ENGINE_STATE_CRASHED, "SHUTDOWN"),
        (engine_pb2.ENGINE_STATE_FAILED, "FAILED"),
        (engine_pb2.ENGINE_STATE_UNSPECIFIED, "ERROR"),
        (99, "ERROR"),
    ],
)
def test_operating_status_is_trove_s_word_for_the_engine_state(state: int, word: str) -> None:
    assert derive(state=state).operating_status == word


def test_reason_is_the_agent_s_own_where_it_gave_one() -> None:
    assert derive(state=engine_pb2.ENGINE_STATE_FAILED, reason="disk full").reason == "disk full"


def test_healthy_says_what_else_is_wrong() -> None:
    assert derive() == Status("ACTIVE", "HEALTHY")
    skew = "clock_skew: this guest's clock is 24 h ahead"
    assert derive(reason=skew) == Status("ACTIVE", "HEALTHY", skew)


def test_silent_agent_shows_error_and_says_for_how_long() -> None:
    shown = derive(silence=dt.timedelta(seconds=125))
    assert (shown.status, shown.operating_status) == ("ACTIVE", "ERROR")
    assert "2 min 5 s" in shown.reason
    assert "limit 1 min 30 s" in shown.reason
    assert "gateway" in shown.reason


def test_agent_silent_just_until_its_deadline_is_still_healthy() -> None:
    assert derive(silence=DEADLINE).operating_status == "HEALTHY"


def test_instance_whose_agent_never_reported_shows_error() -> None:
    shown = derive(state=None, silence=None)
    assert (shown.status, shown.operating_status) == ("ACTIVE", "ERROR")
    assert "never" in shown.reason


def test_running_backup_shows_in_status_and_leaves_health_visible() -> None:
    assert derive(has_running_backup=True) == Status("BACKUP", "HEALTHY")


@pytest.mark.parametrize("task", [Task.MIGRATING, Task.UPDATING, Task.LOGGING])
def test_task_without_a_word_of_its_own_shows_the_server_s_active(task: Task) -> None:
    assert derive(task) == Status("ACTIVE")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(100, "1 min 40 s"), (180, "3 min"), (7_200, "2 h"), (90_000, "1 d 1 h"), (86_460, "1 d")],
)
def test_durations_are_told_in_at_most_two_units(seconds: int, text: str) -> None:
    assert f"for {text} (" in derive(silence=dt.timedelta(seconds=seconds)).reason


def test_settings_that_wait_for_a_restart_show_until_the_agent_says_otherwise() -> None:
    reason = "restart_required: max_connections"
    assert derive(reason=reason) == Status("RESTART_REQUIRED", "", reason)
    assert derive(reason=reason, has_running_backup=True).status == "RESTART_REQUIRED"
    assert derive(Task.REBOOTING, reason=reason).status == "REBOOT"
    crashed = derive(state=engine_pb2.ENGINE_STATE_CRASHED, reason=reason)
    assert crashed.status == "ACTIVE"


def test_settings_that_were_taken_back_leave_the_instance_healthy_and_say_why() -> None:
    reason = "configuration_reverted: it does not start"
    assert derive(reason=reason) == Status("ACTIVE", "HEALTHY", reason)
