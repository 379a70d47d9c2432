"""Commands from the control plane: each id at most once, one at a time.

    running now        the repeat joins it: one execution, one answer
    finished           answered from the journal
    interrupted        a killed agent or a passed deadline; the repeat finishes it (a prepare, a
                       configure, a stop and a resize are repeated, an interrupted restart becomes
                       a start)
    queue full (16)    refused with OVERLOADED; nothing was done, so it may be repeated

UNAVAILABLE and DEADLINE_EXCEEDED are answers, not outcomes: such a command stays interrupted.
What changes nothing (a ping, a list) neither waits behind long commands nor is journaled. What
tenants change inside the engine has a queue and a journal of its own: however much it is, it
pushes nothing of the control plane's own commands out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid

from guestagent.account_commands import AccountCommands
from guestagent.engines import EngineSpec, accounts
from guestagent.journal import Journal, Progress
from guestagent.outbox import Outbox
from guestagent.watcher import Watcher
from trove_grpc import context
from trove_grpc.errors import (
    DeadlineError,
    InvalidRequestError,
    OverloadedError,
    TroveError,
    UnavailableError,
    UnsupportedError,
)
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as session_pb2

log = logging.getLogger(__name__)

CAPACITY = 16
_DEFAULT_SECONDS = 300.0
_UNDECIDED = (UnavailableError, DeadlineError, OverloadedError)
# Each command with the moment it must be done by, loop time.
_Queue = asyncio.Queue[tuple[float, session_pb2.Command]]


class Commands:
    """Takes commands in, carries them out, puts results into the outbox."""

    def __init__(
        self, watcher: Watcher, journal: Journal, outbox: Outbox, *, capacity: int = CAPACITY
    ) -> None:
        self._watcher = watcher
        self._journal = journal
        self._account_journal = journal.part("accounts")
        self._accounts = AccountCommands(watcher)
        self._outbox = outbox
        self._known: set[str] = set()
        self._queues = {
            name: _Queue(capacity) for name in ("commands", "pings", "reads", "changes")
        }

    def accept(self, command: session_pb2.Command) -> None:
        """Queue a command; never waits."""
        if command.command_id in self._known:
            return
        timeout = command.timeout.ToTimedelta().total_seconds() or _DEFAULT_SECONDS
        due = asyncio.get_running_loop().time() + timeout
        kind = command.WhichOneof("action")
        try:
            self._queues[_queue_of(kind or "")].put_nowait((due, command))
        except asyncio.QueueFull:
            error = OverloadedError("the guest has too many commands waiting; repeat it later")
            self._outbox.put_result(_failure(command, error))
            return
        self._known.add(command.command_id)

    async def run(self) -> None:
        """Until cancelled. A command that is cut off stays in the journal as interrupted."""
        async with asyncio.TaskGroup() as group:
            for name, queue in self._queues.items():
                group.create_task(self._work(queue), name=name)

    async def _work(self, queue: _Queue) -> None:
        while True:
            due, command = await queue.get()
            # A gateway's words are not trusted to be fit for a log line either.
            labels = {"operation": command.operation_id} if _is_id(command.operation_id) else {}
            request_id = context.accept_request_id(command.request_id)
            with context.bound(request_id=request_id, **labels):
                try:
                    result = await self._answer(command, due)
                finally:
                    self._known.discard(command.command_id)
                self._outbox.put_result(result)

    async def _answer(self, command: session_pb2.Command, due: float) -> session_pb2.CommandResult:
        kind = command.WhichOneof("action") or ""
        try:
            if kind not in self._watcher.engine.capabilities.actions:
                raise UnsupportedError(
                    f"this guest ({self._watcher.engine.capabilities.manager}) cannot "
                    f"{kind or 'do what was asked'}"
                )
            return await self._once(command, kind, due)
        except TroveError as error:
            log.warning("command %s %s failed: %s", kind, command.command_id, error.message)
            return _failure(command, error)
        except Exception:
            # A step runner: one command's unforeseen failure must not end the agent, which
            # keeps the engine up. Nothing of it leaks; the log has it.
            log.exception("command %s %s failed", kind, command.command_id)
            return _failure(command, TroveError("internal error; see the agent's log"))

    async def _once(
        self, command: session_pb2.Command, kind: str, due: float
    ) -> session_pb2.CommandResult:
        if kind == "ping":
            await self._watcher.look()
            return self._success(command)
        if kind in accounts.READS:
            return await self._read(command, due)
        journal = self._journal
        if kind in accounts.CHANGES:
            journal = self._account_journal
            self._watcher.answering()  # else nothing begins that a repeat would finish
        entry = await asyncio.to_thread(journal.find, command.command_id)
        if entry is not None and entry.progress is Progress.FINISHED and entry.result is not None:
            log.info("command %s %s was carried out before", kind, command.command_id)
            return entry.result
        await asyncio.to_thread(journal.start, command.command_id, kind)
        log.info("command %s %s begins", kind, command.command_id)
        try:
            async with asyncio.timeout_at(due):
                await self._carry_out(command, kind, is_repeat=entry is not None)
            result = self._success(command)
        except TimeoutError:
            raise DeadlineError(
                f"{kind} did not end in time; repeating it goes on from there"
            ) from None
        except _UNDECIDED:
            raise
        except TroveError as error:
            result = _failure(command, error)
        await asyncio.to_thread(journal.finish, command.command_id, kind, result)
        log.info("command %s %s ends %s", kind, command.command_id, result.error_reason or "well")
        return result

    async def _read(self, command: session_pb2.Command, due: float) -> session_pb2.CommandResult:
        try:
            async with asyncio.timeout_at(due):
                return await self._accounts.read(command)
        except TimeoutError:
            raise DeadlineError("the engine did not answer in time") from None

    async def _carry_out(
        self, command: session_pb2.Command, kind: str, *, is_repeat: bool
    ) -> None:
        if kind in accounts.CHANGES:
            await self._accounts.change(command, is_repeat=is_repeat)
        elif kind == "prepare":
            await self._prepare(command.prepare)
        elif kind == "configure":
            await self._watcher.configure(command.configure.parameters)
        elif kind == "stop":
            await self._watcher.stop()
        elif kind == "resize":
            await self._resize(command.resize)
        elif kind == "start" or is_repeat:
            await self._watcher.start()
        else:
            await self._watcher.restart()

    async def _prepare(self, action: session_pb2.PrepareAction) -> None:
        manager = self._watcher.engine.capabilities.manager
        if action.manager != manager:
            raise InvalidRequestError(
                f"this guest runs {manager}, not {action.manager}", subject=action.manager
            )
        spec = EngineSpec(
            version=action.version,
            listen_addresses=tuple(action.listen_addresses),
            port=action.port,
            memory_mib=action.memory_mib,
        )
        await self._watcher.prepare(spec, action.databases, action.users)

    async def _resize(self, action: session_pb2.ResizeAction) -> None:
        patience = action.patience.ToTimedelta().total_seconds()
        if min(action.memory_mib, action.previous_memory_mib, patience) <= 0:
            raise InvalidRequestError("resize names no memory, or leaves no time for it")
        await self._watcher.resize(
            action.memory_mib, previous_mib=action.previous_memory_mib, patience=patience
        )

    def _success(self, command: session_pb2.Command) -> session_pb2.CommandResult:
        observation = self._watcher.observation()
        result = session_pb2.CommandResult(command_id=command.command_id)
        match command.WhichOneof("action"):
            case "prepare":
                result.prepare.engine_version = observation.engine_version
                result.prepare.observation.CopyFrom(observation)
            case "configure":
                result.configure.pending_restart.extend(self._watcher.pending_restart)
                result.configure.observation.CopyFrom(observation)
            case "ping":
                result.ping.observation.CopyFrom(observation)
            case kind if kind in accounts.CHANGES:
                result.accounts.SetInParent()
            case _:
                result.engine.observation.CopyFrom(observation)
        return result


def _queue_of(kind: str) -> str:
    if kind == "ping":
        return "pings"
    if kind in accounts.READS:
        return "reads"
    return "changes" if kind in accounts.CHANGES else "commands"


def _is_id(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return str(uuid.UUID(text)) == text
    return False


def _failure(command: session_pb2.Command, error: TroveError) -> session_pb2.CommandResult:
    return session_pb2.CommandResult(
        command_id=command.command_id, error_reason=error.reason, error_message=error.message
    )
