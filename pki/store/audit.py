"""The issuer's diary: append-only, each row bound to the one before by a hash."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import AuditRecord
from pki.store import counters

# Stands before the first row.
FIRST_HASH = "0" * 64
_MAX_TEXT = 255


def append(
    session: Session,
    *,
    now: dt.datetime,
    actor: str,
    action: str,
    subject: str,
    detail: Mapping[str, str | int] | None = None,
) -> None:
    """Write one row in the transaction of the thing it tells of. Never a secret."""
    sequence = counters.next_value(session, counters.AUDIT)
    previous = session.execute(
        sa.select(AuditRecord.hash).where(AuditRecord.sequence == sequence - 1)
    ).scalar_one_or_none()
    record = AuditRecord(
        sequence=sequence,
        time=now.astimezone(dt.UTC).isoformat(timespec="microseconds"),
        actor=shown(actor),
        action=action,
        subject=shown(subject),
        detail=json.dumps(dict(detail or {}), sort_keys=True),
        previous_hash=previous or FIRST_HASH,
        hash="",
    )
    record.hash = record_hash(record)
    session.add(record)
    session.flush()


@dataclass(slots=True)
class ChainCheck:
    """Recomputes the chain page by page; `position` and `hash` are of the last good row."""

    position: int = 0
    hash: str = FIRST_HASH

    def follows(self, record: AuditRecord) -> bool:
        """Whether `record` is the next row, unchanged; then it is the last good one."""
        if (
            record.sequence != self.position + 1
            or record.previous_hash != self.hash
            or record.hash != record_hash(record)
        ):
            return False
        self.position, self.hash = record.sequence, record.hash
        return True


def first_bad_sequence(session: Session) -> int | None:
    """The first row that was edited, removed or moved; None when the chain holds."""
    check = ChainCheck()
    query = sa.select(AuditRecord).order_by(AuditRecord.sequence)
    with contextlib.closing(session.scalars(query.execution_options(yield_per=500))) as rows:
        for record in rows:
            if not check.follows(record):
                return check.position + 1
    # A shortened diary: the counter remembers how long it was.
    if check.position != counters.present_value(session, counters.AUDIT):
        return check.position + 1
    return None


def after(session: Session, sequence: int, limit: int) -> Sequence[AuditRecord]:
    """Rows in order, from the one behind `sequence`."""
    return session.scalars(
        sa.select(AuditRecord)
        .where(AuditRecord.sequence > sequence)
        .order_by(AuditRecord.sequence)
        .limit(limit)
    ).all()


def page(
    session: Session, *, sequence: int, from_end: bool, limit: int, subject: str, action: str
) -> Sequence[AuditRecord]:
    """Rows behind `sequence`, oldest first; or the newest ones, newest first."""
    order = AuditRecord.sequence.desc() if from_end else AuditRecord.sequence
    query = sa.select(AuditRecord).order_by(order).limit(limit)
    query = query.where(AuditRecord.sequence > sequence)
    if subject:
        query = query.where(AuditRecord.subject == subject)
    if action:
        query = query.where(AuditRecord.action == action)
    return session.scalars(query).all()


def head(session: Session) -> tuple[int, str]:
    """Number and hash of the newest row; (0, FIRST_HASH) before the first."""
    row = session.execute(
        sa.select(AuditRecord.sequence, AuditRecord.hash)
        .order_by(AuditRecord.sequence.desc())
        .limit(1)
    ).one_or_none()
    return (0, FIRST_HASH) if row is None else (row.sequence, row.hash)


def hashes(session: Session, sequences: Sequence[int]) -> dict[int, str]:
    """Hashes of these rows, of those that there are; a few hundred at a time."""
    rows = session.execute(
        sa.select(AuditRecord.sequence, AuditRecord.hash).where(
            AuditRecord.sequence.in_(sequences)
        )
    )
    return {row.sequence: row.hash for row in rows}


def record_hash(record: AuditRecord) -> str:
    fields = [
        record.previous_hash,
        record.sequence,
        record.time,
        record.actor,
        record.action,
        record.subject,
        record.detail,
    ]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def shown(value: str) -> str:
    """Foreign text for a column: NUL and control characters come out escaped, not interpreted."""
    escaped = value if value.isprintable() else value.encode("unicode_escape").decode()
    return escaped[:_MAX_TEXT]


def has(session: Session, action: str, subject: str) -> bool:
    """Whether such a thing was ever done to it. Reads the whole diary: for people's rare verbs."""
    query = sa.select(AuditRecord.sequence).where(
        AuditRecord.action == action, AuditRecord.subject == shown(subject)
    )
    return session.scalars(query.limit(1)).first() is not None
