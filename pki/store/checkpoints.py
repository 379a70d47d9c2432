"""Signed statements about the audit chain, as the database keeps them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import Checkpoint


def newest(session: Session) -> Checkpoint | None:
    return session.scalars(
        sa.select(Checkpoint).order_by(Checkpoint.sequence.desc()).limit(1)
    ).one_or_none()


def after(session: Session, sequence: int, limit: int) -> Sequence[Checkpoint]:
    return session.scalars(
        sa.select(Checkpoint)
        .where(Checkpoint.sequence > sequence)
        .order_by(Checkpoint.sequence)
        .limit(limit)
    ).all()


def add(session: Session, checkpoint: Checkpoint) -> None:
    """Keep a checkpoint; another issuer's of the same row says the same and stays."""
    if session.get(Checkpoint, checkpoint.sequence) is None:
        session.add(checkpoint)
        session.flush()


def rebuild_time(session: Session, epoch: int) -> dt.datetime | None:
    """When the PKI was rebuilt last; None when it never was.

    A rebuild ends with the first checkpoint of its epoch, and serves nobody before.
    """
    if epoch == 1:
        return None
    first = session.execute(
        sa.select(Checkpoint.create_time)
        .where(Checkpoint.epoch == epoch)
        .order_by(Checkpoint.sequence)
        .limit(1)
    ).scalar_one_or_none()
    return None if first is None else dt.datetime.fromisoformat(first)
