"""Actions on an instance that exists: whether one may begin, and what its end means."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.orm import Session

from conductor.config import Quotas
from conductor.models import Backup, GuestPresence, Instance, Operation
from conductor.status import Task, obstacle_to_action
from conductor.store import instances, operations, quotas, requests
from conductor.store.requests import RequestId
from trove_grpc.errors import ConflictError, InvalidRequestError

RESTART_INSTANCE = "restart_instance"
STOP_INSTANCE = "stop_instance"
RESIZE_VOLUME = "resize_volume"
RESIZE_FLAVOR = "resize_flavor"

# The task an instance shows while an operation of this kind runs; Trove's, but for a stop, which
# there is a call to the guest and no task at all.
TASKS = {
    RESTART_INSTANCE: Task.REBOOTING,
    STOP_INSTANCE: Task.UPDATING,
    RESIZE_VOLUME: Task.RESIZING,
    RESIZE_FLAVOR: Task.RESIZING,
}
# What of a target counts against a quota.
_RESOURCES = {"volume_size_gib": "volumes", "flavor_ram_mib": "ram"}
_RESET_FAULT = "an administrator reset the instance's status while this ran; nothing was undone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An action as it was asked for; the request's tenant is the caller's project."""

    kind: str
    request: RequestId
    any_tenant: bool
    target: Mapping[str, str | int] = field(default_factory=dict)


def begin_action(
    session: Session,
    action: Action,
    operation: Operation,
    *,
    quota_defaults: Quotas,
    now: dt.datetime,
) -> str:
    """Write `operation` if its instance may be acted on; returns its id, or an equal earlier's.

    Raises ConflictError (INSTANCE_BUSY), InvalidRequestError for a target that is none, and
    QuotaExceededError.
    """
    instance = instances.lock_instance(
        session,
        instance_id=operation.instance_id,
        tenant_id="" if action.any_tenant else action.request.tenant_id,
    )
    done = requests.claim(
        session,
        action.request,
        resource_id=instance.id,
        operation_id=operation.id,
        now=now,
    )
    if done is not None:
        return done.operation_id
    _require_at_rest(session, instance)
    _check_target(instance, action.target)
    operation.tenant_id = instance.tenant_id
    operation.target = dict(action.target) or None
    session.add(operation)
    session.flush()
    quotas.reserve_growth(
        session,
        tenant_id=instance.tenant_id,
        operation_id=operation.id,
        amounts=_difference(instance, action.target),
        defaults=quota_defaults,
    )
    instance.task = TASKS[action.kind].value
    instance.last_operation_id = operation.id
    instance.generation += 1
    instance.update_time = now
    session.flush()
    return operation.id


def apply_target(session: Session, operation: Operation, instance: Instance) -> None:
    """Give the instance what a successful operation arrived at."""
    target = operation.target or {}
    quotas.resize(
        session,
        tenant_id=instance.tenant_id,
        instance_id=instance.id,
        amounts=_difference(instance, target),
    )
    for name, value in target.items():
        setattr(instance, name, value)


def reset_instance(session: Session, *, instance_id: str, now: dt.datetime) -> None:
    """Free an instance from its task; its flows find their operations ended and stop."""
    instance = instances.lock_instance(session, instance_id=instance_id)
    open_ids = session.scalars(
        sa.select(Operation.id)
        .where(Operation.instance_id == instance.id, Operation.end_time.is_(None))
        .order_by(Operation.create_time)
    ).all()
    for operation_id in open_ids:
        operations.end_operation(
            session,
            operations.lock_operation(session, operation_id),
            state="FAILED",
            fault_message=_RESET_FAULT,
            fault_details="",
            now=now,
        )
        quotas.release_growth(session, operation_id=operation_id)
    # What a create that is reset had reserved counts until the instance is deleted.
    quotas.commit(session, instance_id=instance.id)
    session.execute(
        sa.update(Backup)
        .where(
            Backup.instance_id == instance.id, Backup.state.in_(instances.RUNNING_BACKUP_STATES)
        )
        .values(state="FAILED", reason=_RESET_FAULT, update_time=now)
        .execution_options(synchronize_session=False)
    )
    instance.task = Task.NONE.value
    instance.update_time = now


def _require_at_rest(session: Session, instance: Instance) -> None:
    presence = session.get(GuestPresence, instance.id)
    obstacle = obstacle_to_action(
        task=instance.task,
        engine_state="" if presence is None else presence.engine_state,
        has_running_backup=instances.has_running_backup(session, instance_id=instance.id),
    )
    if not obstacle and operations.has_open(session, instance_id=instance.id):
        obstacle = instance.task
    if obstacle:
        # Trove's words.
        raise ConflictError(
            f"Instance {instance.id} is not currently available for an action to be performed "
            f"(task status was {obstacle}).",
            reason="INSTANCE_BUSY",
            subject=instance.id,
        )


def _check_target(instance: Instance, target: Mapping[str, str | int]) -> None:
    size = target.get("volume_size_gib")
    if isinstance(size, int) and size <= instance.volume_size_gib:
        raise InvalidRequestError(
            "The new volume 'size' must be larger than the current volume size of "
            f"'{instance.volume_size_gib}'.",
            reason="VOLUME_NOT_LARGER",
        )
    if target.get("flavor_id") == instance.flavor_id:
        raise InvalidRequestError(
            "The new flavor id must be different than the current flavor id of "
            f"'{instance.flavor_id}'.",
            reason="FLAVOR_UNCHANGED",
        )


def _difference(instance: Instance, target: Mapping[str, str | int]) -> dict[str, int]:
    """By resource, what the target has more than the instance now; less is negative."""
    return {
        resource: int(target[name]) - int(getattr(instance, name))
        for name, resource in _RESOURCES.items()
        if name in target
    }
