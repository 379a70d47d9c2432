"""Commands one guest has not answered yet."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass, field

from gateway.guest import answers
from trove_grpc import errors
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

# What the API may send: it serves tenants, and nothing of theirs prepares, stops or restarts an
# engine but by an operation of the task manager. What is not named here it may not.
FROM_API = frozenset(
    {
        "ping",
        "list_databases",
        "create_databases",
        "delete_database",
        "list_users",
        "get_user",
        "create_users",
        "update_users",
        "delete_user",
        "grant_access",
        "revoke_access",
        "enable_root",
        "disable_root",
    }
)
# Refused to a guest whose standing is in doubt: they change or hand over something.
DESTRUCTIVE = (FROM_API - {"ping", "list_databases", "list_users", "get_user"}) | {
    "prepare",
    "stop",
    "restart",
    "resize",
    "configure",
}

_REASON = re.compile(r"\A[A-Z][A-Z0-9_]{0,63}\Z")
# Reasons that steer the caller's routing and identity; a guest may not speak for us.
_OURS = frozenset(
    {
        "SESSION_MOVED",
        "SESSION_ENDED",
        "STALE",
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
        "OVERLOADED",
    }
)
_MAX_MESSAGE = 2048


@dataclass(slots=True, eq=False)
class PendingCommand:
    """One command, its answer, and how many callers wait for it."""

    command: guest_pb2.Command = field(repr=False)  # may hold verifiers
    expires_at: float  # loop time
    answer: asyncio.Future[guest_pb2.CommandResult]
    waiters: int = 0


class CommandTable:
    """Bounded: at `limit` unanswered commands a further one is refused with OVERLOADED.

    A command counts from `submit` until its answer or its last waiter's leaving, sent or not, so
    one number bounds both the queue to the guest and the table of futures.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending: dict[str, PendingCommand] = {}
        self._unsent: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._pending)

    def submit(self, command: guest_pb2.Command, timeout: float) -> PendingCommand:
        """Queue a command, or join the one with this id that is already on its way."""
        loop = asyncio.get_running_loop()
        pending = self._pending.get(command.command_id)
        if pending is None:
            if len(self._pending) >= self._limit:
                raise errors.OverloadedError(
                    f"{self._limit} commands to this guest are unanswered; retry later",
                    retry_after=1.0,
                )
            pending = PendingCommand(command, loop.time() + timeout, loop.create_future())
            self._pending[command.command_id] = pending
            self._unsent.append(command.command_id)
        pending.waiters += 1
        return pending

    def release(self, pending: PendingCommand) -> None:
        """One waiter leaves; after the last one a late answer is of no interest."""
        pending.waiters -= 1
        if pending.waiters > 0:
            return
        command_id = pending.command.command_id
        if self._pending.get(command_id) is pending:
            self._remove(command_id)
        if pending.answer.done() and not pending.answer.cancelled():
            pending.answer.exception()  # retrieved, though nobody waits any more

    def next_unsent(self) -> guest_pb2.Command | None:
        """The next command to write, with the time it has left."""
        while self._unsent:
            pending = self._pending[self._unsent.popleft()]
            left = pending.expires_at - asyncio.get_running_loop().time()
            if left <= 0:
                continue  # its waiters are about to say so
            command = guest_pb2.Command()
            command.CopyFrom(pending.command)
            command.timeout.FromMilliseconds(max(1, int(left * 1000)))
            return command
        return None

    def answer(self, result: guest_pb2.CommandResult) -> bool:
        """Hand an answer to its waiters; False when nobody waits for it."""
        pending = self._pending.get(result.command_id)
        if pending is None:
            return False
        self._remove(result.command_id)
        action = pending.command.WhichOneof("action") or ""
        if not pending.answer.done():
            if result.error_reason:
                pending.answer.set_exception(_failure(result))
            elif problem := answers.problem_of(pending.command, result):
                pending.answer.set_exception(
                    errors.TroveError(
                        f"the guest answered {action} with {problem}", reason="BAD_RESULT"
                    )
                )
            else:
                pending.answer.set_result(result)
        return True

    def fail(self, error: errors.TroveError) -> None:
        """Answer every command with `error`."""
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(error)
        self._pending.clear()
        self._unsent.clear()

    def adopt(self, other: CommandTable) -> None:
        """Take over another session's commands and send them again.

        The agent's journal makes the second sending harmless.
        """
        for command_id, pending in other._pending.items():
            if command_id not in self._pending:
                self._pending[command_id] = pending
                self._unsent.append(command_id)
        other._pending = {}
        other._unsent.clear()

    def _remove(self, command_id: str) -> None:
        del self._pending[command_id]
        if command_id in self._unsent:
            self._unsent.remove(command_id)


def _failure(result: guest_pb2.CommandResult) -> errors.TroveError:
    reason = result.error_reason
    if not _REASON.match(reason) or reason in _OURS:
        reason = "COMMAND_FAILED"
    return errors.from_reason(reason, result.error_message[:_MAX_MESSAGE])
