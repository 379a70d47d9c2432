"""One guest's stream: a reader, one writer, and the reason it ends.

Nothing here waits for a queue without a bound:

* commands: at most `command_limit` unanswered, a further one answers OVERLOADED to its caller;
* acknowledgements: at most `unacknowledged_limit` changes whose acknowledgement is not yet
  written; one more ends the session with OVERLOADED, and the agent sends what is left again;
* settings and bundle notices: the newest replaces or completes the one not yet written;
* a guest that does not read for `write_stall` is let go; one that sends too fast is read slowly.

Only the stream's own coroutine ends the call: others set the ending, it raises. Cancelling a
handler does not tell the client (design: performance §5).
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf import duration_pb2
from grpc import aio

from gateway.guest.commands import CommandTable, PendingCommand
from trove_grpc import errors, process
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.identity import Identity

Receive = Callable[["Session", guest_pb2.ConnectRequest], None]

# For a Goodbye to be written to a guest that may not read, seconds.
_GOODBYE_SECONDS = 1.0
_BURST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session ends: with an error status, or politely."""

    error: errors.TroveError | None = None
    goodbye: guest_pb2.GoodbyeReason.ValueType | None = None

    @property
    def reason(self) -> str:
        """A word for logs, metrics and the conductor."""
        if self.error is not None:
            return self.error.reason
        if self.goodbye is not None:
            return guest_pb2.GoodbyeReason.Name(self.goodbye).removeprefix("GOODBYE_REASON_")
        return "CLOSED_BY_GUEST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one session may hold, and for how long."""

    commands: int
    unacknowledged: int
    messages_per_second: float
    write_stall: float  # seconds


class ToldWindows:
    """Which renewal windows a session was told last; each is told once."""

    def __init__(self) -> None:
        self._told: dict[str, bytes] = {}

    def is_new(self, target: str, window: trust_pb2.RenewalWindow) -> bool:
        """Whether it differs from the one told last; counts as told from now on."""
        label = window.SerializeToString(deterministic=True)
        if self._told.get(target) == label:
            return False
        self._told[target] = label
        return True


class Session:
    """One admitted stream of one instance."""

    def __init__(
        self,
        *,
        caller: Identity,
        hello: guest_pb2.Hello,
        epoch: int,
        limits: Limits,
        clock_skew: duration_pb2.Duration | None = None,
        peer: str = "",
    ) -> None:
        self.caller = caller
        self.hello = hello
        self.epoch = epoch  # granted by the conductor
        self.peer = peer  # "host:port" of its connection
        self.open_time = dt.datetime.now(dt.UTC)
        self.last_heard = asyncio.get_running_loop().time()
        self.suspected_until = 0.0  # loop time; a clone was refused
        self.told_windows = ToldWindows()
        self.bundle_version = hello.bundle_version  # as the guest says, like the next
        self.engine_serial = hello.engine_serial
        self.clock_skew = clock_skew  # the guest's clock less ours
        self.commands = CommandTable(limits.commands)
        self._limits = limits
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._wake = asyncio.Event()
        self._heard = asyncio.Event()
        self._welcome: guest_pb2.Welcome | None = None
        self._acknowledgements: deque[str] = deque()
        self._unacknowledged: set[str] = set()
        self._settings: guest_pb2.Settings | None = None
        self._notice = 0
        self._said_goodbye = False

    @property
    def instance_id(self) -> str:
        return self.caller.instance_id

    @property
    def serial(self) -> str:
        return self.caller.serial

    @property
    def is_live(self) -> bool:
        return not self._ended.done()

    def is_same_agent(self, hello: guest_pb2.Hello) -> bool:
        """Whether the newcomer says it is the process that holds this session."""
        ours = (self.hello.boot_id, self.hello.machine_id_hash)
        return ours == (hello.boot_id, hello.machine_id_hash)

    # What goes down.

    def submit(self, command: guest_pb2.Command, timeout: float) -> PendingCommand:
        """Queue a command; raises OverloadedError when the guest has too many already."""
        pending = self.commands.submit(command, timeout)
        self._wake.set()
        return pending

    def adopt_commands(self, other: Session) -> None:
        """Take over the commands another session of the same agent has not answered."""
        self.commands.adopt(other.commands)
        self._wake.set()

    def welcome(self, message: guest_pb2.Welcome) -> None:
        self._welcome = message
        self._wake.set()

    def change_settings(self, settings: guest_pb2.Settings) -> None:
        """Tell these; of what is not written yet, fields that are not among them stay."""
        if self._settings is None:
            self._settings = guest_pb2.Settings()
        self._settings.MergeFrom(settings)
        self._wake.set()

    def note_holdings(self, heartbeat: guest_pb2.Heartbeat) -> bool:
        """Take in which bundle and engine certificate the guest has; whether that is news."""
        holdings = (heartbeat.bundle_version, heartbeat.engine_serial)
        if holdings == (self.bundle_version, self.engine_serial):
            return False
        self.bundle_version, self.engine_serial = holdings
        return True

    def announce_bundle(self, version: int) -> None:
        self._notice = version
        self._wake.set()

    def expect_acknowledgement(self, report_id: str) -> None:
        """Count a change the guest waits for; raises OverloadedError when there are too many."""
        if (
            report_id not in self._unacknowledged
            and len(self._unacknowledged) >= self._limits.unacknowledged
        ):
            raise errors.OverloadedError(
                f"{self._limits.unacknowledged} changes await acknowledgement; reconnect later",
                retry_after=5.0,
            )
        self._unacknowledged.add(report_id)

    def acknowledge(self, report_id: str) -> None:
        """Tell the guest that a change is committed."""
        if report_id in self._unacknowledged and report_id not in self._acknowledgements:
            self._acknowledgements.append(report_id)
            self._wake.set()

    # Life.

    def end(self, ending: Ending) -> None:
        """Let the stream's own coroutine end the call; the first reason counts."""
        if not self._ended.done():
            self._ended.set_result(ending)
            self._wake.set()
            self._heard.set()

    @property
    def ending(self) -> Ending | None:
        return self._ended.result() if self._ended.done() else None

    async def is_heard_within(self, seconds: float) -> bool:
        """Whether anything comes up the stream in this time."""
        self._heard.clear()
        return await process.wait_or_timeout(self._heard, seconds) and self.is_live

    async def run(self, peer: Any, receive: Receive, *, now: dt.datetime) -> None:
        """Carry messages until the session ends; raises the error that ended it."""
        expires_at = self.caller.not_valid_after
        seconds = None if expires_at is None else max(0.0, (expires_at - now).total_seconds())
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(peer, receive), name="guest-reader")
            writer = group.create_task(self._write(peer), name="guest-writer")
            # Nothing in gRPC ends a stream at its certificate's end: this wait does.
            done, _ = await asyncio.wait({self._ended}, timeout=seconds)
            if not done:
                self.end(Ending(_expired(self.caller)))
            reader.cancel()
            if self._ended.result().goodbye is not None:
                await asyncio.wait({writer}, timeout=_GOODBYE_SECONDS)
            writer.cancel()
        if error := self._ended.result().error:
            raise error

    async def _read(self, peer: Any, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        pace = 1.0 / self._limits.messages_per_second
        due = loop.time()
        while self.is_live:
            message = await peer.read()
            if message is aio.EOF:
                self.end(Ending())
                return
            self.last_heard = loop.time()
            self._heard.set()
            try:
                receive(self, message)
            except errors.TroveError as error:
                self.end(Ending(error))
                return
            # One second's worth passes in a burst; beyond it, flow control slows the guest.
            due = max(due, loop.time()) + pace
            if (ahead := due - loop.time() - _BURST_SECONDS) > 0:
                await asyncio.sleep(ahead)

    async def _write(self, peer: Any) -> None:
        while (message := await self._next()) is not None:
            try:
                async with asyncio.timeout(self._limits.write_stall):
                    await peer.write(message)
            except TimeoutError:
                self.end(Ending(errors.UnavailableError("you do not read", reason="SLOW_GUEST")))
                return
            except aio.BaseError:
                self.end(Ending())  # the peer is gone
                return
            if message.HasField("acknowledgement"):
                self._unacknowledged.discard(message.acknowledgement.id)

    async def _next(self) -> guest_pb2.ConnectResponse | None:
        while True:
            if (message := self._take()) is not None:
                return message
            if (ending := self.ending) is not None:
                if ending.goodbye is None or self._said_goodbye:
                    return None
                self._said_goodbye = True
                return guest_pb2.ConnectResponse(goodbye=guest_pb2.Goodbye(reason=ending.goodbye))
            self._wake.clear()
            await self._wake.wait()

    def _take(self) -> guest_pb2.ConnectResponse | None:
        if self._welcome is not None:
            welcome, self._welcome = self._welcome, None
            return guest_pb2.ConnectResponse(welcome=welcome)
        if self._acknowledgements:
            report_id = self._acknowledgements.popleft()
            return guest_pb2.ConnectResponse(
                acknowledgement=guest_pb2.Acknowledgement(id=report_id)
            )
        if self._settings is not None:
            settings, self._settings = self._settings, None
            return guest_pb2.ConnectResponse(settings=settings)
        if self._notice:
            notice, self._notice = guest_pb2.BundleNotice(bundle_version=self._notice), 0
            return guest_pb2.ConnectResponse(bundle_notice=notice)
        if self.is_live and (command := self.commands.next_unsent()) is not None:
            return guest_pb2.ConnectResponse(command=command)
        return None


def _expired(caller: Identity) -> errors.UnauthenticatedError:
    return errors.UnauthenticatedError(
        f"certificate {caller.serial} expired",
        reason="CERTIFICATE_EXPIRED",
        subject=caller.uri,
    )
