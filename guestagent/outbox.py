"""What waits to be told to the control plane. Bounded in every direction.

    heartbeat   one place; a newer one replaces it
    changes     64; kept and resent until acknowledged; when full, the oldest is dropped, for a
                later change of the same engine says more than an earlier one
    backups     64 updates; kept and resent until acknowledged; when full the producer is told
                (OverloadedError) and waits: a backup update is never lost
    results     64; sent once; when full, the oldest is dropped: whoever asked repeats the command
                and is answered from the journal

The outbox outlives sessions: a new stream sends again whatever is not acknowledged.

Each message is numbered when it is put. What is sent late keeps its number, so that an old change
never looks newer than the heartbeat or Hello that overtook it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from trove_grpc.errors import OverloadedError
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as session_pb2

CAPACITY = 64


class Outbox:
    """One agent's outgoing messages; `sequence` holds the order in which they were put."""

    def __init__(self, *, capacity: int = CAPACITY, now: Callable[[], float]) -> None:
        self._capacity = capacity
        self._now = now
        self.number = 0  # of the message put last
        self._heartbeat: session_pb2.ConnectRequest | None = None
        # id -> (message, when it was last sent or None)
        self._changes: OrderedDict[str, _Pending] = OrderedDict()
        self._backups: OrderedDict[str, _Pending] = OrderedDict()
        self._results: deque[session_pb2.ConnectRequest] = deque(maxlen=capacity)
        self._waiting = asyncio.Event()

    def put_heartbeat(self, heartbeat: session_pb2.Heartbeat) -> None:
        self._heartbeat = self._numbered(heartbeat=heartbeat)

    def put_change(self, change: session_pb2.Change) -> None:
        while len(self._changes) >= self._capacity:
            self._changes.popitem(last=False)
        self._changes[change.change_id] = _Pending(self._numbered(change=change))

    def put_backup_update(self, update: session_pb2.BackupUpdate) -> None:
        if len(self._backups) >= self._capacity:
            raise OverloadedError(
                f"{len(self._backups)} backup updates wait for the control plane", retry_after=5
            )
        self._backups[update.update_id] = _Pending(self._numbered(backup_update=update))

    def put_result(self, result: session_pb2.CommandResult) -> None:
        self._results.append(self._numbered(command_result=result))

    def acknowledge(self, identifier: str) -> None:
        self._changes.pop(identifier, None)
        self._backups.pop(identifier, None)

    @property
    def unacknowledged(self) -> int:
        return len(self._changes) + len(self._backups)

    def rewind(self) -> None:
        """A new stream: everything unacknowledged is due again."""
        for pending in (*self._changes.values(), *self._backups.values()):
            pending.sent_at = None
        self._waiting.set()

    def take(self, *, resend_after: float) -> session_pb2.ConnectRequest | None:
        """The next message that is due, most urgent first, or None."""
        if self._results:
            return self._results.popleft()
        now = self._now()
        for pending in (*self._backups.values(), *self._changes.values()):
            if pending.sent_at is None or now - pending.sent_at >= resend_after:
                pending.sent_at = now
                copy = session_pb2.ConnectRequest()
                copy.CopyFrom(pending.message)
                return copy
        if self._heartbeat is not None:
            heartbeat, self._heartbeat = self._heartbeat, None
            return heartbeat
        self._waiting.clear()
        return None

    def _numbered(self, **message: Any) -> session_pb2.ConnectRequest:
        self.number += 1
        self._waiting.set()
        return session_pb2.ConnectRequest(sequence=self.number, **message)

    async def wait(self, seconds: float) -> None:
        """Until something was put, at most `seconds` (then a resend may be due)."""
        # Not wait_for: Python 3.11's swallows a cancellation that comes together with the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._waiting.wait()


class _Pending:
    __slots__ = ("message", "sent_at")

    def __init__(self, message: session_pb2.ConnectRequest) -> None:
        self.message = message
        self.sent_at: float | None = None
