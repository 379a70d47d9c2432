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

    A denial that stands already stays as it is, unless the new one begins earlier or the old one
    has ended: then it gets a new number, so that gateways which have read it learn of it.
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
    elif known.expire_time is not None and known.expire_time <= now:
        known.sequence = sequence
        known.reason = reason
        known.effective_time = effective
        known.expire_time = expire_time
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
            acts_at(now),
        )
        .limit(1)
    ).first()


def acts_at(now: dt.datetime) -> sa.ColumnElement[bool]:
    return sa.and_(
        Denial.effective_time <= now,
        sa.or_(Denial.expire_time.is_(None), Denial.expire_time > now),
    )


def stands(session: Session, kind: str, value: str, now: dt.datetime) -> bool:
    """Whether there is such a denial that has not ended, though it may act only later."""
    return _standing(session, kind, value, now) is not None


def lift(session: Session, kind: str, value: str, now: dt.datetime) -> bool:
    """End a denial now; False when none stands. It gets a new number: gateways must hear of it."""
    sequence = counters.next_value(session, counters.DENIALS)
    known = _standing(session, kind, value, now)
    if known is None:
        return False
    known.sequence = sequence
    known.expire_time = now
    session.flush()
    news.mark(session)
    return True


def prune(session: Session, before: dt.datetime) -> None:
    """Forget denials of things that ended by themselves before `before`.

    The newest stays whatever its age: pollers compare their position with it.
    """
    session.execute(
        sa.delete(Denial).where(Denial.expire_time < before, Denial.sequence < head(session))
    )


def _standing(session: Session, kind: str, value: str, now: dt.datetime) -> Denial | None:
    return session.scalars(
        sa.select(Denial).where(
            Denial.kind == kind,
            Denial.value == value,
            sa.or_(Denial.expire_time.is_(None), Denial.expire_time > now),
        )
    ).one_or_none()
