"""The issuer's diary: append-only, each row bound to the one before by a hash."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import AuditRecord
from pki.store import counters

_FIRST = "0" * 64
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
        previous_hash=previous or _FIRST,
        hash="",
    )
    record.hash = _hash(record)
    session.add(record)
    session.flush()


def first_bad_sequence(session: Session) -> int | None:
    """The first row that was edited, removed or moved; None when the chain holds."""
    expected, previous = 1, _FIRST
    query = sa.select(AuditRecord).order_by(AuditRecord.sequence)
    with contextlib.closing(session.scalars(query.execution_options(yield_per=500))) as rows:
        for record in rows:
            if (
                record.sequence != expected
                or record.previous_hash != previous
                or record.hash != _hash(record)
            ):
                return expected
            expected, previous = expected + 1, record.hash
    # A shortened diary: the counter remembers how long it was.
    if expected - 1 != counters.present_value(session, counters.AUDIT):
        return expected
    return None


def _hash(record: AuditRecord) -> str:
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
