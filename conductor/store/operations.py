"""Operations and their steps: the public projection of the task manager's flows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.orm import Session

from conductor.models import Operation, OperationSecret, OperationStep
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError

_ENDED_STEP_STATES = ("SUCCEEDED", "FAILED", "UNDONE")


@dataclass(frozen=True, slots=True)
class OperationRecord:
    """An operation with its steps in order."""

    operation: Operation
    steps: list[OperationStep] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the order (create_time, id), as a page token."""

    create_time: dt.datetime
    id: str

    @classmethod
    def parse(cls, token: str) -> Place:
        time, _, identity = token.partition("_")
        try:
            return cls(dt.datetime.fromisoformat(time).astimezone(dt.UTC), identity[:36])
        except ValueError as error:
            raise InvalidRequestError(
                "page_token is none that an earlier page gave", reason="BAD_PAGE_TOKEN"
            ) from error

    def __str__(self) -> str:
        return f"{self.create_time.isoformat()}_{self.id}"


def get_operation(session: Session, *, operation_id: str, tenant_id: str = "") -> OperationRecord:
    """One operation; a foreign one does not exist. Empty `tenant_id`: any tenant."""
    operation = session.get(Operation, operation_id)
    if operation is None or (tenant_id and operation.tenant_id != tenant_id):
        raise _not_found(operation_id)
    return _with_steps(session, [operation])[0]


def list_operations(
    session: Session, *, tenant_id: str, instance_id: str, after: Place | None, limit: int
) -> list[OperationRecord]:
    """Newest first."""
    query = sa.select(Operation).order_by(Operation.create_time.desc(), Operation.id.desc())
    if tenant_id:
        query = query.where(Operation.tenant_id == tenant_id)
    if instance_id:
        query = query.where(Operation.instance_id == instance_id)
    if after is not None:
        query = query.where(
            sa.or_(
                Operation.create_time < after.create_time,
                sa.and_(Operation.create_time == after.create_time, Operation.id < after.id),
            )
        )
    return _with_steps(session, session.scalars(query.limit(limit)).all())


def list_open(session: Session, *, after: Place | None, limit: int) -> list[OperationRecord]:
    """Operations that have not ended, oldest first."""
    query = (
        sa.select(Operation)
        .where(Operation.end_time.is_(None))
        .order_by(Operation.create_time, Operation.id)
    )
    if after is not None:
        query = query.where(
            sa.or_(
                Operation.create_time > after.create_time,
                sa.and_(Operation.create_time == after.create_time, Operation.id > after.id),
            )
        )
    return _with_steps(session, session.scalars(query.limit(limit)).all())


def has_open(session: Session, *, instance_id: str) -> bool:
    found = sa.exists().where(Operation.instance_id == instance_id, Operation.end_time.is_(None))
    return bool(session.scalar(sa.select(found)))


def lock_operation(session: Session, operation_id: str) -> Operation:
    """The operation, locked until the transaction ends."""
    operation = session.scalar(
        sa.select(Operation).where(Operation.id == operation_id).with_for_update()
    )
    if operation is None:
        raise _not_found(operation_id)
    return operation


def record_step(
    session: Session, *, operation_id: str, name: str, state: str, detail: str, now: dt.datetime
) -> None:
    """Write a step's state.

    One may come after the operation's end: the last step reports its own success only then.
    """
    operation = lock_operation(session, operation_id)
    step = session.get(OperationStep, (operation_id, name))
    if step is None:
        count = session.scalar(
            sa.select(sa.func.count()).where(OperationStep.operation_id == operation_id)
        )
        step = OperationStep(
            operation_id=operation_id,
            name=name,
            position=(count or 0) + 1,
            state="",
            detail="",
            start_time=now,
        )
        session.add(step)
    if (step.state, step.detail) == (state, detail):
        return
    if state not in _ENDED_STEP_STATES:
        step.end_time = None
    elif step.state not in _ENDED_STEP_STATES or step.state != state:
        step.end_time = now
    step.state, step.detail = state, detail
    if operation.state == "PENDING":
        operation.state = "RUNNING"


def end_operation(
    session: Session,
    operation: Operation,
    *,
    state: str,
    fault_message: str,
    fault_details: str,
    now: dt.datetime,
) -> bool:
    """End an operation and delete its secrets; False if it had ended like this before.

    Raises ConflictError when it ended otherwise.
    """
    if operation.end_time is not None:
        if operation.state == state:
            return False
        raise ConflictError(
            f"operation {operation.id} has ended as {operation.state}, not {state}",
            reason="OPERATION_ENDED",
            subject=operation.id,
        )
    operation.state = state
    operation.end_time = now
    if fault_message or fault_details:
        operation.fault_message = fault_message
        operation.fault_details = fault_details
        operation.fault_time = now
    session.execute(sa.delete(OperationSecret).where(OperationSecret.operation_id == operation.id))
    return True


def failed_step(session: Session, operation_id: str) -> str:
    """Name of the step that failed first; empty if none did."""
    name = session.scalar(
        sa.select(OperationStep.name)
        .where(OperationStep.operation_id == operation_id, OperationStep.state == "FAILED")
        .order_by(OperationStep.position)
        .limit(1)
    )
    return name or ""


def sealed_secrets(session: Session, operation_id: str) -> bytes:
    """What was sealed at create; empty if nothing was.

    Raises ConflictError once the operation has ended.
    """
    operation = session.get(Operation, operation_id)
    if operation is None:
        raise _not_found(operation_id)
    if operation.end_time is not None:
        raise ConflictError(
            f"operation {operation_id} has ended; its secrets are gone",
            reason="OPERATION_ENDED",
            subject=operation_id,
        )
    row = session.get(OperationSecret, operation_id)
    return row.sealed if row is not None else b""


def _with_steps(session: Session, found: Sequence[Operation]) -> list[OperationRecord]:
    records = {operation.id: OperationRecord(operation) for operation in found}
    steps = session.scalars(
        sa.select(OperationStep)
        .where(OperationStep.operation_id.in_(records))
        .order_by(OperationStep.operation_id, OperationStep.position)
    )
    for step in steps:
        records[step.operation_id].steps.append(step)
    return list(records.values())


def _not_found(operation_id: str) -> NotFoundError:
    return NotFoundError(
        f"Operation {operation_id} cannot be found.",
        reason="OPERATION_NOT_FOUND",
        subject=operation_id,
    )


def next_place(records: Sequence[OperationRecord], size: int) -> str:
    """The token after `size` records, where one more than that was asked for."""
    if len(records) <= size:
        return ""
    last = records[size - 1].operation
    return str(Place(last.create_time, last.id))
