"""What the end of an operation means for its instance: task, fault, quota, existence."""

from __future__ import annotations

import datetime as dt

from sqlalchemy.orm import Session

from conductor.models import Instance, InstanceConfiguration, Operation
from conductor.status import Task
from conductor.store import actions, configurations, instances, operations, quotas

CREATE_INSTANCE = "create_instance"
DELETE_INSTANCE = "delete_instance"

# Trove's error task for the step of create_instance that failed.
_TASK_BY_FAILED_STEP = {
    "allocate_address": Task.BUILDING_ERROR_PORT,
    "register_identity": Task.BUILDING_ERROR_ACCESS,
    "await_agent": Task.BUILDING_ERROR_TIMEOUT_GA,
}
_ERROR_TASKS = {
    CREATE_INSTANCE: Task.BUILDING_ERROR_SERVER,
    DELETE_INSTANCE: Task.DELETING_ERROR,
}


def finish_operation(
    session: Session,
    *,
    operation_id: str,
    state: str,
    fault_message: str,
    fault_details: str,
    now: dt.datetime,
) -> str:
    """End an operation and settle its instance in the same transaction, once.

    Returns the id of the instance if it is deleted now, else nothing.
    """
    operation = operations.lock_operation(session, operation_id)
    ended_now = operations.end_operation(
        session,
        operation,
        state=state,
        fault_message=fault_message,
        fault_details=fault_details,
        now=now,
    )
    instance = session.get_one(Instance, operation.instance_id, with_for_update=True)
    if ended_now:
        quotas.release_growth(session, operation_id=operation.id)
    # An operation that is no longer the instance's newest has nothing to say about it.
    if not ended_now or instance.delete_time or instance.last_operation_id != operation.id:
        return ""
    if operation.kind == CREATE_INSTANCE:
        # A failed instance stays, and counts, until its owner deletes it.
        quotas.commit(session, instance_id=instance.id)
    if operation.kind == DELETE_INSTANCE and state == "SUCCEEDED":
        instances.remove_instance(session, instance, now=now)
        return instance.id
    if state == "SUCCEEDED":
        actions.apply_target(session, operation, instance)
        _note_configuration(session, operation)
        instance.task = Task.NONE.value
        instance.fault_message = instance.fault_details = ""
        instance.fault_time = None
    else:
        instance.task = _task_after(session, operation, state).value
        instance.fault_message = fault_message or f"{operation.kind} ended as {state}"
        instance.fault_details = fault_details
        instance.fault_time = now
    instance.update_time = now
    return ""


def _note_configuration(session: Session, operation: Operation) -> None:
    """What the instance is meant to have, its agent has taken over."""
    if operation.kind in (CREATE_INSTANCE, configurations.APPLY_CONFIGURATION):
        row = session.get(InstanceConfiguration, operation.instance_id)
        if row is not None:
            row.is_applied = True


def _task_after(session: Session, operation: Operation, state: str) -> Task:
    """The task of an instance whose operation failed or is stuck."""
    if operation.kind == configurations.APPLY_CONFIGURATION:
        return Task.NONE  # a refused configuration leaves the engine as it was: well
    if operation.kind == CREATE_INSTANCE:
        step = operations.failed_step(session, operation.id)
        return _TASK_BY_FAILED_STEP.get(step, _ERROR_TASKS[CREATE_INSTANCE])
    if operation.kind in actions.TASKS and state == "FAILED":
        # It was undone, and the instance serves as before: its agent says whether that is so.
        return Task.NONE
    return _ERROR_TASKS.get(operation.kind, Task.UPGRADING_ERROR)
