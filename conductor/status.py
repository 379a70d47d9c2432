"""Trove's `status` and `operating_status` from what is known. Stored by nobody, computed here.

status            first match wins (Trove's order): error task, running task, running backup,
                  else ACTIVE. Only Trove's own words: Terraform breaks on any other, and
                  waits through BUILD to ACTIVE on create and through SHUTDOWN on delete.
operating_status  "" while a task runs; else what the agent last saw, or ERROR when the agent
                  is silent. The reason says what a person should look at.
"""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass

from trove_grpc.gen.common.v1 import engine_pb2


class Task(enum.StrEnum):
    """What the control plane is doing to an instance; Trove's names."""

    NONE = "NONE"
    DELETING = "DELETING"
    REBOOTING = "REBOOTING"
    RESIZING = "RESIZING"
    BUILDING = "BUILDING"
    MIGRATING = "MIGRATING"
    RESTART_REQUIRED = "RESTART_REQUIRED"
    PROMOTING = "PROMOTING"
    EJECTING = "EJECTING"
    LOGGING = "LOGGING"
    DETACHING = "DETACHING"
    UPDATING = "UPDATING"
    UPGRADING = "UPGRADING"
    BUILDING_ERROR_DNS = "BUILDING_ERROR_DNS"
    BUILDING_ERROR_SERVER = "BUILDING_ERROR_SERVER"
    BUILDING_ERROR_VOLUME = "BUILDING_ERROR_VOLUME"
    BUILDING_ERROR_SEC_GROUP = "BUILDING_ERROR_SEC_GROUP"
    BUILDING_ERROR_REPLICA = "BUILDING_ERROR_REPLICA"
    BUILDING_ERROR_TIMEOUT_GA = "BUILDING_ERROR_TIMEOUT_GA"
    BUILDING_ERROR_PORT = "BUILDING_ERROR_PORT"
    BUILDING_ERROR_ACCESS = "BUILDING_ERROR_ACCESS"
    PROMOTION_ERROR = "PROMOTION_ERROR"
    EJECTION_ERROR = "EJECTION_ERROR"
    GROWING_ERROR = "GROWING_ERROR"
    SHRINKING_ERROR = "SHRINKING_ERROR"
    UPGRADING_ERROR = "UPGRADING_ERROR"
    # Ours: Trove leaves a failed delete in DELETING, where nobody can tell it from a slow one.
    DELETING_ERROR = "DELETING_ERROR"

    @property
    def is_error(self) -> bool:
        return "_ERROR" in self.value


# Tasks with a word of their own; the others show the server's state, which is ACTIVE.
_STATUS_BY_TASK = {
    Task.BUILDING: "BUILD",
    Task.REBOOTING: "REBOOT",
    Task.RESIZING: "RESIZE",
    Task.UPGRADING: "UPGRADE",
    Task.RESTART_REQUIRED: "RESTART_REQUIRED",
    Task.PROMOTING: "PROMOTE",
    Task.EJECTING: "EJECT",
    Task.DETACHING: "DETACH",
    Task.DELETING: "SHUTDOWN",
}

# Trove's word for each engine state, and what to say when the agent gave no reason.
_OPERATING = {
    engine_pb2.ENGINE_STATE_NEW: ("NEW", "the agent runs; no engine has been prepared"),
    engine_pb2.ENGINE_STATE_PREPARING: ("BUILD", "the engine is being prepared"),
    engine_pb2.ENGINE_STATE_STARTING: ("RESTARTING", "the engine is starting"),
    engine_pb2.ENGINE_STATE_HEALTHY: ("HEALTHY", ""),
    engine_pb2.ENGINE_STATE_BLOCKED: ("BLOCKED", "the engine runs but answers no queries"),
    engine_pb2.ENGINE_STATE_STOPPED: ("SHUTDOWN", "the engine was stopped on request"),
    engine_pb2.ENGINE_STATE_CRASHED: (
        "SHUTDOWN",
        "the engine is gone; the agent is bringing it back",
    ),
    engine_pb2.ENGINE_STATE_FAILED: (
        "FAILED",
        "the agent could not bring the engine back; look at the engine's log",
    ),
}
# Engine states in which Trove lets an action begin: it runs, or it is down and known to be. FAILED
# is among them: the agent gave up bringing a prepared engine back, which Trove calls crashed.
_ACTIONABLE = frozenset({"HEALTHY", "BLOCKED", "STOPPED", "CRASHED", "FAILED"})
_UNKNOWN_STATE = ("ERROR", "the agent reports a state this control plane does not know")
# Begins the reason of a healthy engine whose settings wait for its next start.
_RESTART_REQUIRED = "restart_required: "
_WHERE_TO_LOOK = "see that its machine and agent run and reach the guest gateway"


@dataclass(frozen=True, slots=True)
class Status:
    """What REST shows."""

    status: str
    operating_status: str = ""
    reason: str = ""


def derive_status(
    *,
    task: str,
    observation: engine_pb2.Observation | None,
    silence: dt.timedelta | None,
    presence_deadline: dt.timedelta,
    has_running_backup: bool = False,
) -> Status:
    """Derive an instance's status.

    `observation` and `silence` (time since the last report) are None while there was no report.
    """
    task = Task(task)
    if task.is_error:
        return Status("ERROR")
    if task in _STATUS_BY_TASK:
        return Status(_STATUS_BY_TASK[task])
    status = "BACKUP" if has_running_backup else "ACTIVE"
    if task is not Task.NONE:
        return Status(status)
    if observation is None or silence is None:
        return Status(status, "ERROR", f"its guest agent has never reported; {_WHERE_TO_LOOK}")
    if silence > presence_deadline:
        return Status(
            status,
            "ERROR",
            f"no report from its guest agent for {_span(silence)} "
            f"(limit {_span(presence_deadline)}); {_WHERE_TO_LOOK}",
        )
    if _waits_for_restart(observation):
        return Status("RESTART_REQUIRED", "", observation.reason)
    word, default_reason = _OPERATING.get(observation.state, _UNKNOWN_STATE)
    if word == "HEALTHY":
        # A reason there says what else is wrong, for example "clock_skew: …".
        return Status(status, word, observation.reason)
    return Status(status, word, observation.reason or default_reason)


def obstacle_to_action(*, task: str, engine_state: str, has_running_backup: bool) -> str:
    """Trove's word for what forbids an action to begin; empty when one may.

    Silence is none: an agent's last word stands, as in Trove, and the action finds out.
    """
    if Task(task) not in (Task.NONE, Task.RESTART_REQUIRED):
        return task
    if engine_state not in _ACTIONABLE:
        state = engine_pb2.EngineState.Value(f"ENGINE_STATE_{engine_state or 'UNSPECIFIED'}")
        return _OPERATING.get(state, ("UNKNOWN", ""))[0]
    return "BACKUP" if has_running_backup else ""


def _waits_for_restart(observation: engine_pb2.Observation) -> bool:
    """The agent's word alone: whatever restarts the engine ends it, a crash too."""
    is_healthy = observation.state == engine_pb2.ENGINE_STATE_HEALTHY
    return is_healthy and observation.reason.startswith(_RESTART_REQUIRED)


def _span(duration: dt.timedelta) -> str:
    """A duration for people: 45 s, 2 min 5 s, 3 h 20 min, 4 d 1 h."""
    seconds = int(duration.total_seconds())
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    for index, (name, size) in enumerate(units):
        if seconds >= size:
            count, rest = divmod(seconds, size)
            if index + 1 < len(units) and rest // units[index + 1][1]:
                smaller, smaller_size = units[index + 1]
                return f"{count} {name} {rest // smaller_size} {smaller}"
            return f"{count} {name}"
    return f"{duration.total_seconds():.1f} s"
