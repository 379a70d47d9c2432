"""Marks a transaction as one that gateways and services must hear of at once.

The mark travels with the session, not with its callers: whoever writes a denial or a bundle
version, the store tells its subscribers after the commit and nobody can forget to.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

_KEY = "trove.news"


def mark(session: Session) -> None:
    session.info[_KEY] = True


def is_marked(session: Session) -> bool:
    return _KEY in session.info
