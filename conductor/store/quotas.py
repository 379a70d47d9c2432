"""Quota arithmetic that concurrent creates cannot outrun.

A counter changes only by one conditional UPDATE, which every database carries out atomically: two
creates that race for the last place leave one winner. An instance's share is a row of its own,
and removing that row is what releases it, so a delete that runs twice releases once (Trove's
double-delete defect).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from conductor.config import Quotas
from conductor.models import OperationReservation, Quota, QuotaReservation, QuotaUsage
from conductor.store.dialects import changed_rows, insert_if_absent
from trove_grpc.errors import QuotaExceededError

# Everything with a limit.
RESOURCES = ("backups", "instances", "ram", "volumes")
UNLIMITED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One limited resource of a tenant."""

    resource: str
    limit: int
    in_use: int
    reserved: int


def read_usages(session: Session, *, tenant_id: str, defaults: Quotas) -> list[Usage]:
    """Every resource, by name."""
    limits = _limits(session, tenant_id, defaults)
    rows = session.scalars(sa.select(QuotaUsage).where(QuotaUsage.tenant_id == tenant_id))
    usages = {row.resource: row for row in rows}
    return [
        Usage(
            resource=name,
            limit=limits[name],
            in_use=usages[name].in_use if name in usages else 0,
            reserved=usages[name].reserved if name in usages else 0,
        )
        for name in RESOURCES
    ]


def set_limits(
    session: Session, *, tenant_id: str, limits: Mapping[str, int], defaults: Quotas
) -> list[Usage]:
    """Give a tenant limits of its own; returns every resource.

    A create under way when this commits goes by the limit it began with.
    """
    for resource in sorted(limits):
        row = {"tenant_id": tenant_id, "resource": resource, "hard_limit": limits[resource]}
        statement = (
            sa.update(Quota)
            .where(Quota.tenant_id == tenant_id, Quota.resource == resource)
            .values(hard_limit=limits[resource])
        )
        # Not inserted first, as in _add_reserved; and another may insert it meanwhile.
        if not changed_rows(session, statement) and not insert_if_absent(session, Quota, row):
            session.execute(statement)
    return read_usages(session, tenant_id=tenant_id, defaults=defaults)


def reserve(
    session: Session,
    *,
    tenant_id: str,
    instance_id: str,
    amounts: Mapping[str, int],
    defaults: Quotas,
) -> None:
    """Reserve for an instance; raises QuotaExceededError that names every resource exceeded."""
    session.add_all(
        QuotaReservation(
            instance_id=instance_id, resource=name, tenant_id=tenant_id, amount=amount
        )
        for name, amount in _claim(session, tenant_id, amounts, defaults).items()
    )


def reserve_growth(
    session: Session,
    *,
    tenant_id: str,
    operation_id: str,
    amounts: Mapping[str, int],
    defaults: Quotas,
) -> None:
    """Reserve what an operation adds to an instance; what it takes away stays until it has."""
    growth = {name: amount for name, amount in amounts.items() if amount > 0}
    session.add_all(
        OperationReservation(
            operation_id=operation_id, resource=name, tenant_id=tenant_id, amount=amount
        )
        for name, amount in _claim(session, tenant_id, growth, defaults).items()
    )


def release_growth(session: Session, *, operation_id: str) -> None:
    """Give back what an operation reserved; once, however often it is called."""
    rows = session.execute(
        sa.select(
            OperationReservation.tenant_id,
            OperationReservation.resource,
            OperationReservation.amount,
        )
        .where(OperationReservation.operation_id == operation_id)
        .order_by(OperationReservation.resource)
        .with_for_update()
    ).all()
    for tenant_id, resource, amount in rows:
        removed = changed_rows(
            session,
            sa.delete(OperationReservation).where(
                OperationReservation.operation_id == operation_id,
                OperationReservation.resource == resource,
            ),
        )
        if removed:
            _change(session, tenant_id, resource, reserved=-amount)


def resize(
    session: Session, *, tenant_id: str, instance_id: str, amounts: Mapping[str, int]
) -> None:
    """Add to what an instance uses, or take from it; limits were asked when it was reserved."""
    for name in sorted(name for name, amount in amounts.items() if amount):
        is_share = sa.and_(
            QuotaReservation.instance_id == instance_id, QuotaReservation.resource == name
        )
        changed = changed_rows(
            session,
            sa.update(QuotaReservation)
            .where(is_share)
            .values(amount=QuotaReservation.amount + amounts[name]),
        )
        if not changed:  # it had none of this before
            session.add(
                QuotaReservation(
                    instance_id=instance_id,
                    resource=name,
                    tenant_id=tenant_id,
                    amount=amounts[name],
                    is_committed=True,
                )
            )
        _change(session, tenant_id, name, in_use=amounts[name])


def _claim(
    session: Session, tenant_id: str, amounts: Mapping[str, int], defaults: Quotas
) -> dict[str, int]:
    """Add to the counters; returns what was added. Raises QuotaExceededError."""
    limits = _limits(session, tenant_id, defaults)
    # A zero asks for nothing: it must not fail on a limit that was lowered since.
    amounts = {name: amount for name, amount in amounts.items() if amount}
    exceeded = [
        name
        for name in sorted(amounts)  # always in one order, so that two creates cannot deadlock
        if not _add_reserved(session, tenant_id, name, amounts[name], limits[name])
    ]
    if exceeded:
        raise QuotaExceededError(
            _describe(
                exceeded, amounts, read_usages(session, tenant_id=tenant_id, defaults=defaults)
            ),
            subject=",".join(exceeded),
        )
    return amounts


def commit(session: Session, *, instance_id: str) -> None:
    """Turn an instance's reservations into usage; once, however often it is called."""
    for row in _shares(session, instance_id):
        claimed = changed_rows(
            session,
            sa.update(QuotaReservation)
            .where(
                QuotaReservation.instance_id == instance_id,
                QuotaReservation.resource == row.resource,
                QuotaReservation.is_committed.is_(False),
            )
            .values(is_committed=True),
        )
        if claimed:
            _change(session, row.tenant_id, row.resource, in_use=row.amount, reserved=-row.amount)


def release(session: Session, *, instance_id: str) -> None:
    """Give back all an instance holds; once, however often it is called."""
    for row in _shares(session, instance_id):
        removed = changed_rows(
            session,
            sa.delete(QuotaReservation).where(
                QuotaReservation.instance_id == instance_id,
                QuotaReservation.resource == row.resource,
            ),
        )
        if removed:
            side = "in_use" if row.is_committed else "reserved"
            _change(session, row.tenant_id, row.resource, **{side: -row.amount})


@dataclass(frozen=True, slots=True)
class _Share:
    tenant_id: str
    resource: str
    amount: int
    is_committed: bool


def _shares(session: Session, instance_id: str) -> list[_Share]:
    # Locked and read as plain values: the rows are changed by statements, not through the ORM.
    rows = session.execute(
        sa.select(
            QuotaReservation.tenant_id,
            QuotaReservation.resource,
            QuotaReservation.amount,
            QuotaReservation.is_committed,
        )
        .where(QuotaReservation.instance_id == instance_id)
        .order_by(QuotaReservation.resource)
        .with_for_update()
    )
    return [_Share(*row) for row in rows]


def _limits(session: Session, tenant_id: str, defaults: Quotas) -> dict[str, int]:
    own = {
        row.resource: row.hard_limit
        for row in session.scalars(sa.select(Quota).where(Quota.tenant_id == tenant_id))
    }
    return {name: own.get(name, getattr(defaults, name)) for name in RESOURCES}


def _add_reserved(
    session: Session, tenant_id: str, resource: str, amount: int, limit: int
) -> bool:
    is_counter = sa.and_(QuotaUsage.tenant_id == tenant_id, QuotaUsage.resource == resource)
    statement = (
        sa.update(QuotaUsage).where(is_counter).values(reserved=QuotaUsage.reserved + amount)
    )
    if limit != UNLIMITED:
        statement = statement.where(QuotaUsage.in_use + QuotaUsage.reserved + amount <= limit)
    if changed_rows(session, statement):
        return True
    # Not inserted first: on MariaDB an insert that finds the row takes a shared lock, and two
    # creates that both want to update it next are a deadlock.
    if session.scalar(sa.select(sa.exists().where(is_counter))):
        return False
    insert_if_absent(
        session,
        QuotaUsage,
        {"tenant_id": tenant_id, "resource": resource, "in_use": 0, "reserved": 0},
    )
    return changed_rows(session, statement) > 0


def _change(
    session: Session, tenant_id: str, resource: str, *, in_use: int = 0, reserved: int = 0
) -> None:
    session.execute(
        sa.update(QuotaUsage)
        .where(QuotaUsage.tenant_id == tenant_id, QuotaUsage.resource == resource)
        .values(in_use=QuotaUsage.in_use + in_use, reserved=QuotaUsage.reserved + reserved)
        .execution_options(synchronize_session=False)
    )


def _describe(exceeded: list[str], amounts: Mapping[str, int], usages: list[Usage]) -> str:
    by_name = {usage.resource: usage for usage in usages}
    parts = [
        f"{name}: limit {by_name[name].limit}, "
        f"held {by_name[name].in_use + by_name[name].reserved}, asked {amounts[name]}"
        for name in exceeded
    ]
    return (
        f"Quota exceeded for resources: {exceeded}. ({'; '.join(parts)}.) "
        "Delete instances or ask for a larger quota."
    )
