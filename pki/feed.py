"""The feed of denials, as every process that has an internal listener follows it.

Two ways lead to the same list. Watch tells at once; ListDenials asks, quickly while there is no
stream and now and then while there is one, so that a stream that lies or is stuck costs seconds.
The issuer numbers denials under a lock, so "what came after N" misses none. Good news from either
way is a sign of life; a stream without any for `silence` is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grpc import aio

from pki import shared_metrics
from pki.denials import DenialList
from trove_grpc import context, errors, process
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as issuer_rpc
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as watch_pb
from trove_grpc.gen.issuer.v1 import watch_service_pb2_grpc as watch_rpc
from trove_grpc.identity import Identity

log = logging.getLogger(__name__)

_PAGE_SIZE = 1000
_LONGEST_RETRY = 5.0  # seconds, between attempts to watch

Heard = Callable[[watch_pb.WatchResponse], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the issuer is asked, seconds."""

    poll: float = 1.0  # while nobody tells us
    backstop: float = 10.0  # while Watch does
    silence: float = 10.0  # without a word on the stream: it is dead
    stale: float = 30.0  # without good news: what a denied identity must not get is refused
    timeout: float = 10.0  # of one ListDenials


_PACE = Pace()
# An issuer that does not answer must not keep a process from starting, seconds.
_BEGIN_SECONDS = 2.0


class DenialFeed:
    """Keeps one list of denials up to date until told to stop."""

    def __init__(
        self,
        issuer: PeerChannel,
        denials: DenialList,
        *,
        watcher: str,
        pace: Pace = _PACE,
        changed: Callable[[], None] = lambda: None,
        opened: Callable[[], None] = lambda: None,
        heard: Heard = lambda _response: None,
    ) -> None:
        self._issuer = issuer
        self.denials = denials
        self._watcher = watcher
        self._pace = pace
        self._changed = changed  # the list acts on others than before
        self._opened = opened  # a stream that is new has begun
        self._heard = heard  # each word of the stream
        self._sequence = 0
        self._swept_at = _now()
        self._fresh_at: float | None = None
        self._is_failing = False
        self._poll_now = asyncio.Event()
        self.is_watching = False
        shared_metrics.DENIALS_AGE.set_function(lambda: self.age)

    @property
    def age(self) -> float:
        """Seconds since all denials there were had been read; infinite before that."""
        if self._fresh_at is None:
            return float("inf")
        return time.monotonic() - self._fresh_at

    def require_loaded(self) -> None:
        """Refuse everybody before the list was read once."""
        if self._fresh_at is None:
            raise _unread("the list of denials has not been read yet")

    def require_fresh(self) -> None:
        """Refuse what a denied identity must not get while the list may be out of date."""
        if self.age > self._pace.stale:
            raise _unread(f"the list of denials is older than {self._pace.stale:g} s")

    def refusal(self, caller: Identity) -> errors.TroveError | None:
        """The error to give a caller of an internal listener (trove_grpc.interceptors.Denials).

        Nobody is let in before the list was read once. A list that has grown old goes on
        standing: an issuer that is down must not take the control plane down with it.
        """
        if self._fresh_at is None:
            return _unread("the list of denials has not been read yet")
        return self.denials.refusal(caller)

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._poll(stop), name="denial-poll")
            group.create_task(self._tick(stop), name="denial-starts")
            group.create_task(self._watch(stop), name="denial-watch")
            await stop.wait()
            self._poll_now.set()

    async def begin(self) -> None:
        """Have the list before the first caller comes, where the issuer answers at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BEGIN_SECONDS):
                await self.poll_once()

    async def poll_once(self) -> None:
        """Read what is new by asking."""
        try:
            await self._read()
            self._is_failing = False
        except errors.TroveError as error:
            if not self._is_failing:
                log.warning("cannot read denials from the issuer: %s", error.message)
            self._is_failing = True

    # Asking.

    async def _poll(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.poll_once()
            self._poll_now.clear()
            pace = self._pace.backstop if self.is_watching else self._pace.poll
            await process.wait_or_timeout(self._poll_now, pace)

    async def _read(self) -> None:
        while True:
            stub = self._issuer.stub(issuer_rpc.IssuerServiceStub)
            page: issuer_pb2.ListDenialsResponse = await call(
                stub.ListDenials,
                issuer_pb2.ListDenialsRequest(after_sequence=self._sequence, page_size=_PAGE_SIZE),
                timeout=self._pace.timeout,
                retry=True,
            )
            self._take(page.denials)
            if page.head_sequence < self._sequence:
                # The issuer's database was restored: read it all again, forget nothing.
                log.warning("the issuer's denials went back to %d", page.head_sequence)
                self._sequence = 0
                if page.head_sequence > 0:
                    continue
            elif page.denials and page.head_sequence > self._sequence:
                continue
            self.denials.forget_expired()
            self._fresh_at = time.monotonic()
            return

    # Being told.

    async def _watch(self, stop: asyncio.Event) -> None:
        pause = self._pace.poll
        while not stop.is_set():
            began = time.monotonic()
            why = await self._stream(stop)
            if self.is_watching:
                self.is_watching = False
                self._poll_now.set()
                log.warning("the issuer's watch stream ended (%s); asking meanwhile", why)
            if time.monotonic() - began > self._pace.silence:
                pause = self._pace.poll
            jitter = random.uniform(0.5, 1.5)  # noqa: S311  a spread
            await process.wait_or_timeout(stop, pause * jitter)
            pause = min(_LONGEST_RETRY, pause * 2)

    async def _stream(self, stop: asyncio.Event) -> str:
        """Run one Watch stream to its end; returns why it ended.

        A channel closed under the call (our identity was replaced) cancels the reader from below;
        as a task of its own that is an ordinary end.
        """
        try:
            stub = self._issuer.stub(watch_rpc.WatchServiceStub)
        except errors.UnavailableError as error:
            return error.message
        request = watch_pb.WatchRequest(gateway_id=self._watcher, after_sequence=self._sequence)
        open_stream: Any = stub.Watch
        stream = open_stream(
            request, metadata=((context.REQUEST_ID_KEY, context.new_request_id()),)
        )
        reader = asyncio.create_task(self._follow(stream), name="denial-watch-reader")
        stopping = asyncio.create_task(stop.wait(), name="denial-watch-stop")
        try:
            await asyncio.wait({reader, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                return "stopping"
            return "the channel was replaced" if reader.cancelled() else reader.result()
        finally:
            stream.cancel()
            for task in (reader, stopping):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _follow(self, stream: Any) -> str:
        try:
            while True:
                async with asyncio.timeout(self._pace.silence):
                    response = await stream.read()
                if response is aio.EOF:
                    status: Any = await stream.code()
                    return f"{status.name}: {await stream.details()}"
                self._hear(response)
        except TimeoutError:
            return f"no sign of life for {self._pace.silence:g} s"
        except aio.AioRpcError as error:
            return errors.from_rpc(error).message

    def _hear(self, response: watch_pb.WatchResponse) -> None:
        if not self.is_watching:
            self.is_watching = True
            self._opened()
        self._take(response.denials)
        if response.head_sequence < self._sequence:
            self._poll_now.set()  # a restored database: asking begins again from its start
        elif response.head_sequence == self._sequence:
            self._fresh_at = time.monotonic()
        self._heard(response)

    # Acting.

    def _take(self, denials: Sequence[issuer_pb2.Denial]) -> None:
        if not denials:
            return
        self.denials.apply(denials)
        self._sequence = max(self._sequence, *(denial.sequence for denial in denials))
        self._changed()

    async def _tick(self, stop: asyncio.Event) -> None:
        """Some denials begin to act later than they are told."""
        while not await process.wait_or_timeout(stop, self._pace.poll):
            now = _now()
            if self.denials.starts_between(self._swept_at, now):
                self._changed()
            self._swept_at = now


def _unread(why: str) -> errors.UnavailableError:
    return errors.UnavailableError(
        f"{why}; is the issuer up?", reason="DENIALS_STALE", retry_after=5.0
    )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
