"""Agents as operators see them: a subject, its newest certificate, and where it is in its life."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import Authority, Certificate, Denial, Subject
from pki.store import certificates, denials, subjects

_GUEST = "guest"
_OVERDUE = 2 / 3


class State(enum.StrEnum):
    """Named as in the proto."""

    NEVER = "NEVER"
    CURRENT = "CURRENT"
    OVERDUE = "OVERDUE"
    EXPIRED = "EXPIRED"
    LOST = "LOST"
    QUARANTINED = "QUARANTINED"
    DENIED = "DENIED"
    RETIRED = "RETIRED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One agent at one moment."""

    subject: Subject
    newest: Certificate | None
    state: State
    engine_generation: int  # 0 when unknown
    # Nothing but time stands between it and a recovery.
    is_only_late: bool
    # What the denial names that acts on it: (kind, value).
    denied_by: tuple[str, str] | None


def find(
    session: Session, instance_id: str, now: dt.datetime, grace: dt.timedelta
) -> Agent | None:
    subject = subjects.find(session, instance_id)
    return None if subject is None else _describe(session, [subject], now, grace)[0]


def page(
    session: Session,
    *,
    after: str,
    size: int,
    tenant_id: str,
    is_online: bool | None,
    is_retired: bool,
    now: dt.datetime,
    grace: dt.timedelta,
) -> Sequence[Agent]:
    """By instance id; retired ones or all others."""
    query = sa.select(Subject).where(Subject.instance_id > after)
    retired = Subject.state == subjects.RETIRED
    query = query.where(retired if is_retired else ~retired)
    if tenant_id:
        query = query.where(Subject.tenant_id == tenant_id)
    if is_online is not None:
        query = query.where(Subject.is_online.is_(is_online))
    found = session.scalars(query.order_by(Subject.instance_id).limit(size)).all()
    return _describe(session, found, now, grace)


def certificates_of(session: Session, instance_id: str, limit: int) -> Sequence[Certificate]:
    """Of the agent and of its engine, newest first."""
    return session.scalars(
        sa.select(Certificate)
        .where(Certificate.instance_id == instance_id)
        .order_by(Certificate.number.desc())
        .limit(limit)
    ).all()


def _describe(
    session: Session, found: Sequence[Subject], now: dt.datetime, grace: dt.timedelta
) -> list[Agent]:
    newest = _newest(session, [each.instance_id for each in found])
    refused = _refused(session, found, newest.values(), now)
    tainted = set(
        session.scalars(
            sa.select(Authority.generation).where(
                Authority.kind == _GUEST, Authority.state == "TAINTED"
            )
        )
    )
    engines = _engine_generations(session, found)
    agents = []
    for subject in found:
        leaf = newest.get(subject.instance_id)
        is_good = (
            leaf is not None
            and leaf.state != certificates.SUPERSEDED
            and leaf.generation not in tainted
        )
        named = [name for name in _names(subject, leaf) if name in refused]
        agents.append(
            Agent(
                subject=subject,
                newest=leaf,
                state=_state(subject, leaf, now, grace, is_denied=bool(named), is_good=is_good),
                engine_generation=engines.get((subject.instance_id, subject.engine_serial), 0),
                is_only_late=is_good and leaf is not None and leaf.state != certificates.DENIED,
                denied_by=named[0] if named else None,
            )
        )
    return agents


def _newest(session: Session, ids: Collection[str]) -> dict[str, Certificate]:
    """The newest certificate of each that was not superseded, else the newest of all."""
    in_use = sa.case((Certificate.state != certificates.SUPERSEDED, Certificate.number))
    numbers = (
        sa.select(sa.func.coalesce(sa.func.max(in_use), sa.func.max(Certificate.number)))
        .where(Certificate.instance_id.in_(ids), Certificate.kind == _GUEST)
        .group_by(Certificate.instance_id)
    )
    rows = session.scalars(
        sa.select(Certificate).where(Certificate.number.in_(session.scalars(numbers).all()))
    )
    return {row.instance_id: row for row in rows if row.instance_id is not None}


def _refused(
    session: Session,
    found: Sequence[Subject],
    leaves: Collection[Certificate],
    now: dt.datetime,
) -> set[tuple[str, str]]:
    """The denials that act on any of these, as (kind, value)."""
    named = {
        denials.INSTANCE: [each.instance_id for each in found],
        denials.TENANT: [each.tenant_id for each in found],
        denials.SERIAL: [each.serial for each in leaves],
        denials.KEY: [each.key_hash for each in leaves],
    }
    of_these = sa.or_(
        *(sa.and_(Denial.kind == kind, Denial.value.in_(values)) for kind, values in named.items())
    )
    rows = session.execute(
        sa.select(Denial.kind, Denial.value).where(of_these, denials.acts_at(now))
    ).all()
    return {(row.kind, row.value) for row in rows}


def _engine_generations(session: Session, found: Sequence[Subject]) -> dict[tuple[str, str], int]:
    """By (instance, serial): a guest that names another's certificate is not believed."""
    serials = [each.engine_serial for each in found if each.engine_serial]
    rows = session.execute(
        sa.select(Certificate.instance_id, Certificate.serial, Certificate.generation).where(
            Certificate.serial.in_(serials), Certificate.kind == "database"
        )
    ).all()
    return {(row.instance_id or "", row.serial): row.generation for row in rows}


def _names(subject: Subject, leaf: Certificate | None) -> list[tuple[str, str]]:
    """What a denial may name of an agent, the widest first."""
    names = [(denials.TENANT, subject.tenant_id), (denials.INSTANCE, subject.instance_id)]
    if leaf is not None and leaf.state != certificates.SUPERSEDED:
        names += [(denials.SERIAL, leaf.serial), (denials.KEY, leaf.key_hash)]
    return names


def _state(
    subject: Subject,
    leaf: Certificate | None,
    now: dt.datetime,
    grace: dt.timedelta,
    *,
    is_denied: bool,
    is_good: bool,
) -> State:
    if subject.state == subjects.RETIRED:
        return State.RETIRED
    if is_denied:
        return State.DENIED
    if subject.quarantine_time is not None:
        return State.QUARANTINED
    if leaf is None:
        return State.NEVER
    if not is_good or leaf.state == certificates.DENIED:
        return State.LOST
    if now >= leaf.expire_time:
        may_recover_until = leaf.expire_time + grace
        if subject.recovery_until_time is not None:
            may_recover_until = max(may_recover_until, subject.recovery_until_time)
        return State.EXPIRED if now <= may_recover_until else State.LOST
    used = (now - leaf.issue_time) / (leaf.expire_time - leaf.issue_time)
    return State.OVERDUE if used > _OVERDUE else State.CURRENT
