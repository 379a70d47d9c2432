"""Leaves still in use: what stands between a generation and its end.

Who has something newer, and has shown it, no longer counts. How that shows differs by kind: a
guest's next certificate is confirmed, a service's is seen by the issuer, and an engine's is told
by its agent or else taken to be the newest issued.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from pki.models import Certificate, Service, Subject
from pki.store import certificates, subjects

GUEST, SERVICE, OPERATOR, ENGINE = "guest", "service", "operator", "database"
# Kinds of authorities that sign leaves.
KINDS = (GUEST, SERVICE, OPERATOR, ENGINE)

Condition = sa.ColumnElement[bool]


def of_generation(generation: int) -> Condition:
    return Certificate.generation == generation


def since_generation(generation: int) -> Condition:
    return Certificate.generation >= generation


def issued_before(moment: dt.datetime) -> Condition:
    return Certificate.issue_time < moment


def issued_since(moment: dt.datetime) -> Condition:
    return Certificate.issue_time >= moment


def count(session: Session, kind: str, which: Condition, now: dt.datetime) -> int:
    query = _in_use(kind, which, now).subquery()
    return session.execute(sa.select(sa.func.count()).select_from(query)).scalar_one()


def count_serials(session: Session, serials: Collection[str], which: Condition) -> int:
    """How many of these certificates are one of `which`."""
    if not serials:
        return 0
    return session.execute(
        sa.select(sa.func.count())
        .select_from(Certificate)
        .where(Certificate.serial.in_(serials), which)
    ).scalar_one()


def names(session: Session, kind: str, which: Condition, now: dt.datetime) -> Sequence[str]:
    """Names of their holders."""
    query = _in_use(kind, which, now).with_only_columns(Certificate.name).distinct()
    return session.scalars(query.order_by(Certificate.name)).all()


def instances(session: Session, kind: str, which: Condition, now: dt.datetime) -> Sequence[str]:
    """Live instances that hold one."""
    query = _in_use(kind, which, now).with_only_columns(Certificate.instance_id).distinct()
    found = session.scalars(query.order_by(Certificate.instance_id)).all()
    return [each for each in found if each is not None]


def latest_expiry(session: Session, kind: str, generation: int) -> dt.datetime | None:
    return session.execute(
        sa.select(sa.func.max(Certificate.expire_time)).where(
            Certificate.kind == kind,
            Certificate.generation == generation,
            Certificate.state.in_(certificates.LIVE),
        )
    ).scalar_one()


def reissued(
    session: Session, kind: str, which: Condition, instance_ids: Collection[str] = ()
) -> int:
    """Live instances whose certificate in use (of a guest or its engine) is one of `which`."""
    holder = sa.select(Certificate.instance_id).where(Certificate.kind == kind, which)
    if kind == ENGINE:
        holder = holder.where(Certificate.number.in_(_newest_of_engines()))
        shown = aliased(Certificate)
        holder = holder.where(
            sa.or_(
                Subject.engine_serial == "",
                sa.exists()
                .where(shown.serial == Subject.engine_serial, shown.number >= Certificate.number)
                .correlate(Subject, Certificate),
            )
        )
    else:
        holder = holder.where(Certificate.state == certificates.CURRENT)
    holder = holder.join(Subject, Subject.instance_id == Certificate.instance_id).where(
        Subject.state == subjects.ACTIVE
    )
    if instance_ids:
        holder = holder.where(Certificate.instance_id.in_(instance_ids))
    return session.execute(
        sa.select(sa.func.count()).select_from(holder.distinct().subquery())
    ).scalar_one()


def _in_use(kind: str, which: Condition, now: dt.datetime) -> sa.Select[Certificate]:
    query = sa.select(Certificate).where(
        Certificate.kind == kind,
        Certificate.state.in_(certificates.LIVE),
        Certificate.expire_time > now,
        which,
    )
    if kind in {GUEST, ENGINE}:
        query = query.join(Subject, Subject.instance_id == Certificate.instance_id).where(
            Subject.state == subjects.ACTIVE
        )
    if kind == ENGINE:
        query = query.where(
            sa.or_(
                Certificate.number.in_(_newest_of_engines()),
                Certificate.serial == Subject.engine_serial,
            )
        )
    if kind == SERVICE:
        seen = aliased(Certificate)
        query = query.where(
            ~sa.exists()
            .where(
                Service.name == Certificate.name,
                Service.serial == seen.serial,
                seen.number > Certificate.number,
            )
            .correlate(Certificate)
        )
    return query


def _newest_of_engines() -> sa.Select[int]:
    other = aliased(Certificate)
    return (
        sa.select(sa.func.max(other.number))
        .where(other.kind == ENGINE)
        .group_by(other.instance_id)
    )
