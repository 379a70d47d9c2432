"""Numbers in commit order."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import Counter

DENIALS = "denials"
AUDIT = "audit"


def next_value(session: Session, name: str) -> int:
    """The next number; its row stays locked until this transaction ends."""
    changed = session.execute(
        sa.update(Counter).where(Counter.name == name).values(value=Counter.value + 1)
    )
    assert changed.rowcount == 1, f"counter {name} is missing"  # type: ignore[attr-defined]  # noqa: S101
    return present_value(session, name)


def present_value(session: Session, name: str) -> int:
    return session.execute(sa.select(Counter.value).where(Counter.name == name)).scalar_one()
