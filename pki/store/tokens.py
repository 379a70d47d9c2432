"""Enrolment tokens at rest."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import Token


def add(session: Session, token: Token) -> None:
    """Record a new token; older ones of the instance that nobody used become void.

    A used one stays: its holder may still ask again for a reply that was lost.
    """
    void(session, token.instance_id, token.create_time)
    session.add(token)
    session.flush()


def void(session: Session, instance_id: str, now: dt.datetime) -> int:
    """End the instance's unused tokens; how many there were."""
    ended = session.execute(
        sa.update(Token)
        .where(
            Token.instance_id == instance_id, Token.used_at.is_(None), Token.void_time.is_(None)
        )
        .values(void_time=now)
    )
    return int(ended.rowcount)  # type: ignore[attr-defined]


def revoke(session: Session, token_id: str, now: dt.datetime) -> bool:
    """End one token; False when it was used or void before."""
    ended = session.execute(
        sa.update(Token)
        .where(Token.token_id == token_id, Token.used_at.is_(None), Token.void_time.is_(None))
        .values(void_time=now)
    )
    return bool(ended.rowcount == 1)  # type: ignore[attr-defined]


def get(session: Session, token_id: str) -> Token | None:
    return session.get(Token, token_id)


def page(
    session: Session, *, instance_id: str, before: Token | None, size: int
) -> Sequence[Token]:
    """Newest first; an empty `instance_id` means every instance."""
    query = sa.select(Token).order_by(Token.create_time.desc(), Token.token_id.desc()).limit(size)
    if instance_id:
        query = query.where(Token.instance_id == instance_id)
    if before is not None:
        same_time = sa.and_(
            Token.create_time == before.create_time, Token.token_id < before.token_id
        )
        query = query.where(sa.or_(Token.create_time < before.create_time, same_time))
    return session.scalars(query).all()


def find(session: Session, lookup: str) -> Token | None:
    return session.scalars(sa.select(Token).where(Token.lookup == lookup)).one_or_none()


def count_failure(session: Session, lookup: str) -> None:
    """Count a failed attempt; an unknown token costs the same statement."""
    session.execute(
        sa.update(Token).where(Token.lookup == lookup).values(attempts=Token.attempts + 1)
    )


def take(session: Session, token_id: str, key_hash: str, now: dt.datetime) -> bool:
    """Use the token up; False when somebody else was first. This statement is the single use."""
    taken = session.execute(
        sa.update(Token)
        .where(Token.token_id == token_id, Token.used_at.is_(None), Token.void_time.is_(None))
        .values(used_at=now, used_by_key=key_hash)
    )
    return bool(taken.rowcount == 1)  # type: ignore[attr-defined]


def prune(session: Session, before: dt.datetime) -> None:
    """Forget tokens that expired before `before`."""
    session.execute(sa.delete(Token).where(Token.expire_time < before))
