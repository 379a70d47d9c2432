"""Instances the issuer may sign for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import Subject
from trove_grpc.errors import ConflictError, NotFoundError

ACTIVE = "ACTIVE"
RETIRED = "RETIRED"


def find(session: Session, instance_id: str) -> Subject | None:
    return session.get(Subject, instance_id)


def find_locked(session: Session, instance_id: str) -> Subject | None:
    """The subject, if any, locked until the transaction ends."""
    return session.scalars(
        sa.select(Subject)
        .where(Subject.instance_id == instance_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()


def of_ids(session: Session, instance_ids: Collection[str]) -> Sequence[Subject]:
    """Those of these instances that are known, by id."""
    return session.scalars(
        sa.select(Subject)
        .where(Subject.instance_id.in_(instance_ids))
        .order_by(Subject.instance_id)
    ).all()


def lock_active(session: Session, instance_id: str) -> Subject:
    """The live subject, locked until the transaction ends: one change of identity at a time.

    Raises NotFoundError (UNKNOWN_INSTANCE) or ConflictError (INSTANCE_RETIRED).
    """
    subject = find_locked(session, instance_id)
    if subject is None:
        raise NotFoundError(
            f"instance {instance_id} is not registered with the issuer",
            reason="UNKNOWN_INSTANCE",
            subject=instance_id,
        )
    if subject.state != ACTIVE:
        raise ConflictError(
            f"the identity of instance {instance_id} is retired",
            reason="INSTANCE_RETIRED",
            subject=instance_id,
        )
    return subject


def register(
    session: Session,
    *,
    instance_id: str,
    tenant_id: str,
    dns_names: Sequence[str],
    ip_addresses: Sequence[str],
    now: dt.datetime,
) -> Subject:
    """Make the instance known, or bring its engine's names up to date."""
    known = session.get(Subject, instance_id)
    if known is None:
        known = Subject(
            instance_id=instance_id,
            tenant_id=tenant_id,
            state=ACTIVE,
            enrol_epoch=1,
            engine_dns_names=list(dns_names),
            engine_ip_addresses=list(ip_addresses),
            create_time=now,
        )
        session.add(known)
        session.flush()
        return known
    subject = lock_active(session, instance_id)
    if subject.tenant_id != tenant_id:
        raise ConflictError(
            f"instance {instance_id} is registered for another tenant",
            reason="OTHER_TENANT",
            subject=instance_id,
        )
    subject.engine_dns_names = list(dns_names)
    subject.engine_ip_addresses = list(ip_addresses)
    session.flush()
    return subject


def quarantined(session: Session, limit: int) -> Sequence[str]:
    """Ids of the instances in quarantine, at most `limit`."""
    return session.scalars(
        sa.select(Subject.instance_id)
        .where(Subject.quarantine_time.is_not(None), Subject.state == ACTIVE)
        .order_by(Subject.instance_id)
        .limit(limit)
    ).all()


def retire(session: Session, subject: Subject, now: dt.datetime) -> None:
    subject.state = RETIRED
    subject.retire_time = now
    session.flush()
