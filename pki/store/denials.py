"""Refusals of identity, numbered so that a poller misses none."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import Denial
from pki.store import counters, news

SERIAL = "SERIAL"
KEY = "KEY"
INSTANCE = "INSTANCE"
TENANT = "TENANT"
GENERATION = "GENERATION"


def write(
    session: Session,
    *,
    kind: str,
    value: str,
    reason: str,
    now: dt.datetime,
    effective_time: dt.datetime | None = None,
    expire_time: dt.datetime | None = None,
) -> Denial:
    """Deny something from `effective_time` (default: now) on.

    A denial that stands already stays as it is, unless the new one begins earlier: then it gets
    a new number, so that gateways which have read the old one learn of it.
    """
    effective = effective_time or now
    # The counter's lock comes first: it also keeps two writers of one value apart.
    sequence = counters.next_value(session, counters.DENIALS)
    known = session.scalars(
        sa.select(Denial).where(Denial.kind == kind, Denial.value == value)
    ).one_or_none()
    if known is None:
        known = Denial(
            sequence=sequence,
            kind=kind,
            value=value,
            reason=reason,
            create_time=now,
            effective_time=effective,
            expire_time=expire_time,
        )
        session.add(known)
    elif effective < known.effective_time:
        known.sequence = sequence
        known.reason = reason
        known.effective_time = effective
    session.flush()
    news.mark(session)
    return known


def after(session: Session, sequence: int, limit: int) -> Sequence[Denial]:
    return session.scalars(
        sa.select(Denial).where(Denial.sequence > sequence).order_by(Denial.sequence).limit(limit)
    ).all()


def head(session: Session) -> int:
    """The highest number among them; 0 when there is none."""
    return session.execute(sa.select(sa.func.max(Denial.sequence))).scalar_one() or 0


def effective(
    session: Session, names: Collection[tuple[str, str]], now: dt.datetime
) -> Denial | None:
    """A denial of any of these (kind, value) that acts now."""
    return session.scalars(
        sa.select(Denial)
        .where(
            sa.or_(*(sa.and_(Denial.kind == k, Denial.value == v) for k, v in names)),
            Denial.effective_time <= now,
        )
        .limit(1)
    ).first()


def prune(session: Session, before: dt.datetime) -> None:
    """Forget denials of things that ended by themselves before `before`.

    The newest stays whatever its age: pollers compare their position with it.
    """
    session.execute(
        sa.delete(Denial).where(Denial.expire_time < before, Denial.sequence < head(session))
    )
