"""Issued certificates and their life."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import Certificate, Denial
from pki.store import denials

PENDING = "PENDING"
CURRENT = "CURRENT"
SUPERSEDED = "SUPERSEDED"
DENIED = "DENIED"
LIVE = (PENDING, CURRENT)


def add(session: Session, certificate: Certificate) -> Certificate:
    session.add(certificate)
    session.flush()
    return certificate


def by_serial(session: Session, serial: str) -> Certificate | None:
    return session.scalars(
        sa.select(Certificate).where(Certificate.serial == serial)
    ).one_or_none()


def by_key(session: Session, key_hash: str) -> Certificate | None:
    return session.scalars(
        sa.select(Certificate).where(Certificate.key_hash == key_hash)
    ).one_or_none()


def live_of_instance(session: Session, instance_id: str, kind: str) -> Sequence[Certificate]:
    """Pending and current certificates of an instance, oldest first."""
    return session.scalars(
        sa.select(Certificate)
        .where(
            Certificate.instance_id == instance_id,
            Certificate.kind == kind,
            Certificate.state.in_(LIVE),
        )
        .order_by(Certificate.number)
    ).all()


def denied_of_instance(
    session: Session, instance_id: str, now: dt.datetime
) -> Sequence[Certificate]:
    """Those of its agent that were denied and would be good otherwise."""
    return session.scalars(
        sa.select(Certificate).where(
            Certificate.instance_id == instance_id,
            Certificate.kind == "guest",
            Certificate.state == DENIED,
            Certificate.expire_time > now,
        )
    ).all()


def count_issued(session: Session, name: str, kind: str, since: dt.datetime) -> int:
    return session.execute(
        sa.select(sa.func.count())
        .select_from(Certificate)
        .where(Certificate.name == name, Certificate.kind == kind, Certificate.issue_time > since)
    ).scalar_one()


def latest_expiry(session: Session, instance_id: str) -> dt.datetime | None:
    """When the last certificate of an instance ends by itself."""
    return session.execute(
        sa.select(sa.func.max(Certificate.expire_time)).where(
            Certificate.instance_id == instance_id
        )
    ).scalar_one()


def latest_issue(session: Session, instance_id: str | None, kind: str) -> dt.datetime | None:
    """When the instance got its newest certificate of this kind."""
    return session.execute(
        sa.select(sa.func.max(Certificate.issue_time)).where(
            Certificate.instance_id == instance_id, Certificate.kind == kind
        )
    ).scalar_one()


def live_named(session: Session, pattern: str, now: dt.datetime) -> Sequence[Certificate]:
    """Live certificates that have not expired, by an SQL pattern of their names."""
    return session.scalars(
        sa.select(Certificate).where(
            Certificate.name.like(pattern),
            Certificate.state.in_(LIVE),
            Certificate.expire_time > now,
        )
    ).all()


def revoked(
    session: Session, kind: str, generation: int, now: dt.datetime
) -> Sequence[tuple[str, dt.datetime | None]]:
    """(serial, since when) of what is refused although it has not expired, oldest first."""
    rows = session.execute(
        sa.select(Certificate.serial, Denial.effective_time)
        .outerjoin(
            Denial, sa.and_(Denial.kind == denials.SERIAL, Denial.value == Certificate.serial)
        )
        .where(
            Certificate.kind == kind,
            Certificate.generation == generation,
            Certificate.expire_time > now,
            Certificate.state.in_((DENIED, SUPERSEDED)),
        )
        .order_by(Certificate.number)
    )
    return [(row.serial, row.effective_time) for row in rows]


def mark_denied(session: Session, *conditions: sa.ColumnElement[bool]) -> None:
    session.execute(sa.update(Certificate).where(*conditions).values(state=DENIED))


def page(
    session: Session, *, subject: str, before: int | None, size: int
) -> Sequence[Certificate]:
    """Newest first; `subject` is a full name or an instance id."""
    query = sa.select(Certificate).order_by(Certificate.number.desc()).limit(size)
    if subject:
        query = query.where(
            sa.or_(Certificate.name == subject, Certificate.instance_id == subject)
        )
    if before is not None:
        query = query.where(Certificate.number < before)
    return session.scalars(query).all()
