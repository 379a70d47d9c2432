"""GET …/operations/{id}/events: an operation's steps as they happen, as server-sent events.

Each stream asks the conductor once a second, so that it outlives the conductor's restarts. All is
bounded: streams, how long each lasts (its token is judged anew when the client comes back with
Last-Event-ID, as every EventSource does by itself), and how long a client may take to read.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from aiohttp import web

from gateway.rest import events
from gateway.rest.control_plane import ControlPlane
from gateway.rest.router import CLOSING, Call, Route
from trove_grpc import context
from trove_grpc.errors import (
    DeadlineError,
    OverloadedError,
    QuotaExceededError,
    TroveError,
    UnavailableError,
)
from trove_grpc.gen.conductor.v1 import resources_pb2

log = logging.getLogger(__name__)

# Unsent bytes at which a write waits for the client.
_BUFFER_BYTES = 16_384
_NO_NEWS = b": no news\n\n"
_AWAY = b": the control plane is away; waiting for it\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much streams may take."""

    poll: dt.timedelta = dt.timedelta(seconds=1)
    # A comment this often tells a silent stream from a dead one.
    comment: dt.timedelta = dt.timedelta(seconds=15)
    lifetime: dt.timedelta = dt.timedelta(seconds=60)
    # How long a client may leave its buffer full.
    patience: dt.timedelta = dt.timedelta(seconds=10)
    of_tenant: int = 8
    of_process: int = 128


DEFAULT = Bounds()


class OperationEvents:
    """Streams of this process, counted by tenant."""

    def __init__(self, control_plane: ControlPlane, bounds: Bounds | None = None) -> None:
        self._control_plane = control_plane
        self._bounds = bounds or DEFAULT
        self._open: Counter[str] = Counter()

    def routes(self) -> list[Route]:
        return [("GET", "/operations/{id}/events", self.follow)]

    async def follow(self, call: Call) -> web.StreamResponse:
        seen = events.accept_id(call.http.headers.get("Last-Event-ID", ""))
        with self._counted(call.project_id):
            operation = await self._read(call)
            if events.is_final(operation) and not list(events.unseen(operation, seen, call.links)):
                # The one answer after which an EventSource does not come back.
                return web.Response(status=204)
            stream = await self._begin(call)
            try:
                await self._send_all(call, stream, operation, seen)
            except TimeoutError:
                log.info("dropped a client that does not read an operation's events")
                if call.http.transport is not None:
                    call.http.transport.abort()
            except ConnectionError:
                pass  # it went away, which is how a client ends a stream
            return stream

    @contextlib.contextmanager
    def _counted(self, tenant_id: str) -> Iterator[None]:
        if self._open[tenant_id] >= self._bounds.of_tenant:
            raise QuotaExceededError(
                f"{self._bounds.of_tenant} streams of events are open for this project, which is "
                "the most; close one, or read GET /operations/{id} instead."
            )
        if self._open.total() >= self._bounds.of_process:
            raise OverloadedError(
                "Too many streams of events are open; read GET /operations/{id} instead."
            )
        self._open[tenant_id] += 1
        try:
            yield
        finally:
            self._open[tenant_id] -= 1
            if not self._open[tenant_id]:
                del self._open[tenant_id]

    async def _begin(self, call: Call) -> web.StreamResponse:
        stream = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # nginx would hold events back
                "X-OpenStack-Request-Id": context.request_id(),
            }
        )
        await stream.prepare(call.http)
        if call.http.transport is not None:
            call.http.transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        return stream

    async def _send_all(
        self,
        call: Call,
        stream: web.StreamResponse,
        operation: resources_pb2.Operation | None,
        seen: str,
    ) -> None:
        """Send what is new until the operation ends or the stream's time is over."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._bounds.lifetime.total_seconds()
        spoke = loop.time()
        while True:
            if operation is not None:
                for event_id, event in events.unseen(operation, seen, call.links):
                    await self._send(stream, event)
                    seen, spoke = event_id, loop.time()
                if events.is_final(operation):
                    break
            if await self._over(call, ends):
                break
            try:
                operation = await self._read(call)
            except (UnavailableError, DeadlineError):
                operation = None
            except TroveError as error:
                # Too late for a status: the client comes back and hears it then.
                log.warning("a stream of events ends: %s", error)
                break
            if loop.time() - spoke >= self._bounds.comment.total_seconds():
                await self._send(stream, _NO_NEWS if operation else _AWAY)
                spoke = loop.time()
        async with asyncio.timeout(self._bounds.patience.total_seconds()):
            await stream.write_eof()

    async def _over(self, call: Call, ends: float) -> bool:
        """Wait a moment; whether the time, the client or this process has gone meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._bounds.poll.total_seconds()):
                await call.http.app[CLOSING].wait()
        transport = call.http.transport
        return (
            call.http.app[CLOSING].is_set()
            or asyncio.get_running_loop().time() >= ends
            or transport is None
            or transport.is_closing()
        )

    async def _send(self, stream: web.StreamResponse, event: bytes) -> None:
        async with asyncio.timeout(self._bounds.patience.total_seconds()):
            await stream.write(event)

    async def _read(self, call: Call) -> resources_pb2.Operation:
        # A deadline for each question: the request's own has passed long before the stream ends.
        with context.deadline_in(call.settings.request_timeout.total_seconds()):
            return await self._control_plane.get_operation(call.project_id, call.segment("id"))
