"""What the records say about everything that holds a certificate, counted by the database."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import Certificate, Domain, Service, Subject, Token
from pki.store import certificates, subjects


def soonest_expiry(session: Session, now: dt.datetime) -> dict[str, dt.datetime]:
    """The first end to come among certificates in use, by kind of authority."""
    query = (
        sa.select(Certificate.kind, sa.func.min(Certificate.expire_time, type_=_TIME))
        .where(Certificate.state == certificates.CURRENT, Certificate.expire_time > now)
        .group_by(Certificate.kind)
    )
    return dict(session.execute(query).all())


def services_issued_before(session: Session, moment: dt.datetime, now: dt.datetime) -> int:
    """Services whose certificate in use is older than this and has not ended."""
    return session.execute(
        sa.select(sa.func.count())
        .select_from(Service)
        .join(Certificate, Certificate.serial == Service.serial)
        .where(Certificate.issue_time < moment, Certificate.expire_time > now)
    ).scalar_one()


def skewed_agents(session: Session, more_than: dt.timedelta) -> int:
    """Connected agents whose clock is wrong by more than this."""
    limit = int(more_than / dt.timedelta(milliseconds=1))
    return _online(session, sa.func.abs(Subject.clock_skew_ms) > limit)


def agents_behind(session: Session) -> int:
    """Connected agents that hold an older bundle than the one in force."""
    in_force = sa.select(Domain.bundle_version).scalar_subquery()
    return _online(session, Subject.held_bundle_version < in_force)


def open_tokens(session: Session, now: dt.datetime) -> int:
    return session.execute(
        sa.select(sa.func.count())
        .select_from(Token)
        .where(Token.used_at.is_(None), Token.void_time.is_(None), Token.expire_time > now)
    ).scalar_one()


def _online(session: Session, condition: sa.ColumnElement[bool]) -> int:
    return session.execute(
        sa.select(sa.func.count())
        .select_from(Subject)
        .where(Subject.state == subjects.ACTIVE, Subject.is_online.is_(True), condition)
    ).scalar_one()


# An aggregate would lose the column's own type, and with it the time zone.
_TIME = Certificate.expire_time.type
