"""Active instances that ever enrolled: whom a rotation concerns, counted and named in SQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import Certificate, Subject
from pki.store import subjects
from pki.store.leaves import GUEST, Condition


def is_online() -> Condition:
    return Subject.is_online.is_(True)


def is_offline() -> Condition:
    return Subject.is_online.is_(False)


def holds_bundle(version: int) -> Condition:
    return Subject.held_bundle_version >= version


def lacks_bundle(version: int) -> Condition:
    return Subject.held_bundle_version < version


def count(session: Session, only: Collection[str], *conditions: Condition) -> int:
    """How many; an empty `only` means all."""
    ids = _of(only, conditions).with_only_columns(Subject.instance_id).subquery()
    return session.execute(sa.select(sa.func.count()).select_from(ids)).scalar_one()


def first(
    session: Session, only: Collection[str], *conditions: Condition, limit: int
) -> Sequence[Subject]:
    """The first `limit` of them by id."""
    query = _of(only, conditions).order_by(Subject.instance_id).limit(limit)
    return session.scalars(query).all()


def ids(
    session: Session, only: Collection[str], *conditions: Condition, limit: int | None = None
) -> Sequence[str]:
    query = _of(only, conditions).with_only_columns(Subject.instance_id)
    return session.scalars(query.order_by(Subject.instance_id).limit(limit)).all()


def _of(only: Collection[str], conditions: Sequence[Condition]) -> sa.Select[Subject]:
    query = sa.select(Subject).where(
        Subject.state == subjects.ACTIVE,
        sa.exists().where(
            Certificate.instance_id == Subject.instance_id, Certificate.kind == GUEST
        ),
        *conditions,
    )
    return query.where(Subject.instance_id.in_(only)) if only else query
