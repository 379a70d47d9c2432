"""Refusals in the audit, in bounded number.

The first of a kind is written at once, what follows within the window is counted and written as
one record. A peer has a few kinds of its own and shares one beyond them, all peers together have
a bound: whoever is refused all day long fills no disk.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from pki.store import Store, audit
from trove_grpc.errors import (
    ConflictError,
    PermissionDeniedError,
    TroveError,
    UnauthenticatedError,
)
from trove_grpc.identity import Identity, Role

# Errors that refuse; the others report trouble.
_REFUSALS = (UnauthenticatedError, PermissionDeniedError, ConflictError)
_WINDOW = dt.timedelta(minutes=5)
_KINDS_OF_A_PEER = 10
_KINDS_OF_ALL = 200
_EVERYBODY = "everybody else"
_OTHER = "OTHER"
_MAX_SUBJECT = 255


@dataclass(frozen=True, slots=True)
class _Kind:
    actor: str
    action: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Row:
    kind: _Kind
    subject: str
    detail: dict[str, str | int]
    time: dt.datetime


class Refusals:
    """Takes refusals from anywhere on the event loop; `flush` writes them."""

    def __init__(
        self,
        store: Store,
        *,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._store = store
        self._now = now
        self._began = now()
        self._pending: list[_Row] = []
        self._seen: set[_Kind] = set()
        self._kinds_of: Counter[str] = Counter()
        self._repeats: Counter[_Kind] = Counter()

    def note(
        self,
        action: str,
        error_reason: str,
        *,
        actor: str,
        subject: str,
        detail: dict[str, str | int] | None = None,
    ) -> None:
        """Take a refusal down; never raises, never waits."""
        kind = self._kind(_Kind(actor, action, error_reason))
        if kind in self._seen:
            self._repeats[kind] += 1
            return
        self._seen.add(kind)
        self._kinds_of[kind.actor] += 1
        self._pending.append(
            _Row(kind, subject, {"why": error_reason, **(detail or {})}, self._now())
        )

    def refused(self, error: TroveError, caller: Identity | None, peer: str) -> None:
        """Take down a call that ended in an error; fits trove_grpc.interceptors.Refused."""
        if not isinstance(error, _REFUSALS):
            return
        if caller is not None and caller.role is Role.GATEWAY:
            is_its_own = isinstance(error, PermissionDeniedError) or error.subject == caller.uri
            if not is_its_own:
                return  # a guest was refused through it: the handlers write that down
        address = peer.rpartition(":")[0]  # without the port, which is another each time
        self.note(
            "refuse-call",
            error.reason,
            actor=address if caller is None else caller.uri,
            subject=error.subject[:_MAX_SUBJECT],
        )

    async def flush(self) -> None:
        """Write what is new, and once a window what was repeated."""
        rows, self._pending = self._pending, []
        now = self._now()
        if now - self._began >= _WINDOW:
            rows += [
                _Row(kind, "", {"why": kind.reason, "times": times}, now)
                for kind, times in self._repeats.items()
            ]
            self._repeats.clear()
            self._seen.clear()
            self._kinds_of.clear()
            self._began = now
        if not rows:
            return
        try:
            await self._store.run(lambda session: _write(session, rows))
        except TroveError:
            self._pending = rows + self._pending  # for the next time; their number is bounded
            raise

    def _kind(self, kind: _Kind) -> _Kind:
        if kind in self._seen:
            return kind
        if self._kinds_of[kind.actor] >= _KINDS_OF_A_PEER:
            return _Kind(kind.actor, "refuse", _OTHER)
        if len(self._seen) >= _KINDS_OF_ALL:
            return _Kind(_EVERYBODY, "refuse", _OTHER)
        return kind


def _write(session: Session, rows: list[_Row]) -> None:
    for row in rows:
        audit.append(
            session,
            now=row.time,
            actor=row.kind.actor,
            action=row.kind.action,
            subject=row.subject,
            detail=row.detail,
        )
