"""What the records say about everything that holds a certificate, counted by the database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import Authority, Certificate, Rotation, Service, Subject, Token
from pki.store import certificates, subjects

# Generations whose end matters to somebody.
_IN_USE = ("PREPARED", "TRUSTED", "ACTIVE", "DRAINING")
_ENDED_PHASES = ("RETIRED", "ABORTED", "ROLLED_BACK")


@dataclass(frozen=True, slots=True)
class OpenRotation:
    """One rotation that has not ended."""

    name: str
    phase: str
    since: dt.datetime
    is_paused: bool


def authorities_in_use(session: Session) -> Sequence[Authority]:
    return session.scalars(
        sa.select(Authority).where(Authority.state.in_(_IN_USE)).order_by(Authority.id)
    ).all()


def soonest_expiry(session: Session) -> dict[str, dt.datetime]:
    """The first end among live leaves that were confirmed, by kind of authority."""
    rows = session.execute(
        sa.select(Certificate.kind, sa.func.min(Certificate.expire_time))
        .where(Certificate.state == certificates.CURRENT)
        .group_by(Certificate.kind)
    )
    return {kind: _aware(end) for kind, end in rows}


def overdue_services(session: Session, due_before: dt.datetime, now: dt.datetime) -> int:
    """Services seen whose present certificate was issued before `due_before`."""
    return session.execute(
        sa.select(sa.func.count())
        .select_from(Service)
        .join(Certificate, Certificate.serial == Service.serial)
        .where(Certificate.issue_time < due_before, Certificate.expire_time > now)
    ).scalar_one()


def skewed_agents(session: Session, more_than: dt.timedelta) -> int:
    """Connected guests whose clock is wrong by more than this."""
    limit = int(more_than / dt.timedelta(milliseconds=1))
    return session.execute(
        sa.select(sa.func.count())
        .select_from(Subject)
        .where(
            Subject.state == subjects.ACTIVE,
            Subject.is_online.is_(True),
            sa.func.abs(Subject.clock_skew_ms) > limit,
        )
    ).scalar_one()


def agents_behind(session: Session, bundle_version: int) -> int:
    """Connected guests that hold an older bundle than this."""
    return session.execute(
        sa.select(sa.func.count())
        .select_from(Subject)
        .where(
            Subject.state == subjects.ACTIVE,
            Subject.is_online.is_(True),
            Subject.held_bundle_version < bundle_version,
        )
    ).scalar_one()


def usable_tokens(session: Session, now: dt.datetime) -> int:
    return session.execute(
        sa.select(sa.func.count())
        .select_from(Token)
        .where(Token.used_at.is_(None), Token.void_time.is_(None), Token.expire_time > now)
    ).scalar_one()


def open_rotations(session: Session) -> Sequence[OpenRotation]:
    rows = session.scalars(
        sa.select(Rotation).where(Rotation.phase.not_in(_ENDED_PHASES)).order_by(Rotation.number)
    )
    return [
        OpenRotation(f"rot-{row.number:04}", row.phase, row.phase_time, row.is_paused)
        for row in rows
    ]


def _aware(moment: dt.datetime | str) -> dt.datetime:
    # An aggregate loses the column's type: SQLite hands back its text.
    read = dt.datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return read if read.tzinfo else read.replace(tzinfo=dt.UTC)
