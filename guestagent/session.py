"""One Connect stream: Hello, Welcome, then both sides as needed.

A session owns its channel: during a renewal two sessions live side by side, and only the primary
one empties the outbox. It ends when the gateway says so, when the stream breaks, or by `close`.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Protocol

from grpc import aio

from guestagent.outbox import Outbox
from trove_grpc import context
from trove_grpc.errors import DeadlineError, UnavailableError, from_rpc
from trove_grpc.gen.guest.v1 import (
    guest_session_service_pb2 as session_pb2,
)
from trove_grpc.gen.guest.v1 import (
    guest_session_service_pb2_grpc,
    identity_service_pb2_grpc,
)

_WELCOME_SECONDS = 20.0
_FAREWELL_SECONDS = 1.0


class Listener(Protocol):
    """What a session tells its agent."""

    def on_welcome(self, welcome: session_pb2.Welcome) -> None: ...
    def on_command(self, command: session_pb2.Command) -> None: ...
    def on_settings(self, settings: session_pb2.Settings) -> None: ...
    def on_bundle(self, version: int) -> None: ...


class Session:
    """One stream on one channel."""

    def __init__(
        self,
        channel: aio.Channel,
        *,
        outbox: Outbox,
        listener: Listener,
        resend_after: float,
    ) -> None:
        self._channel = channel
        self._outbox = outbox
        self._listener = listener
        self._resend_after = resend_after
        # What was put before our Hello is older than what Hello says.
        self._first = outbox.number
        self._is_primary = asyncio.Event()
        self._stream: Any = None
        self.epoch = 0
        self.goodbye = session_pb2.GOODBYE_REASON_UNSPECIFIED

    @property
    def identity_stub(self) -> identity_service_pb2_grpc.IdentityServiceAsyncStub:
        """Calls about the identity that this session's channel shows."""
        stub: Any = identity_service_pb2_grpc.IdentityServiceStub(self._channel)
        return stub  # type: ignore[no-any-return]

    async def open(self, hello: session_pb2.Hello) -> None:
        """Say Hello and hear Welcome. Raises the gateway's refusal; closes itself then."""
        stub = guest_session_service_pb2_grpc.GuestSessionServiceStub(self._channel)
        metadata = ((context.REQUEST_ID_KEY, context.new_request_id()),)
        try:
            async with asyncio.timeout(_WELCOME_SECONDS):
                self._stream = stub.Connect(metadata=metadata)
                await self._stream.write(session_pb2.ConnectRequest(sequence=1, hello=hello))
                answer = await self._stream.read()
        except TimeoutError:
            await self.abandon()
            raise DeadlineError("the gateway did not answer Hello") from None
        except (aio.AioRpcError, asyncio.InvalidStateError) as error:
            refusal = await self._failure(error)
            await self.abandon()
            raise refusal from error
        except asyncio.CancelledError:
            await self.abandon()
            raise
        if answer is aio.EOF or answer.WhichOneof("message") != "welcome":
            await self.abandon()
            raise UnavailableError("the gateway did not begin with Welcome")
        self.epoch = answer.welcome.session_epoch
        self._listener.on_welcome(answer.welcome)

    def take_over(self) -> None:
        """Become the session that empties the outbox, all of it that is not acknowledged."""
        self._outbox.rewind()
        self._is_primary.set()

    def hand_over(self) -> None:
        """Only listen from now on; the successor sends."""
        self._is_primary.clear()

    async def run(self) -> None:
        """Until the gateway ends the stream; raises its error unless it ended well."""
        writer = asyncio.create_task(self._write(), name="session-writer")
        try:
            await self._read()
        except (aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await self._failure(error) from error
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, aio.AioRpcError):
                await writer
            await self.abandon()

    async def close(self) -> None:
        """Leave politely: what we sent arrives, then the stream ends."""
        with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
            await self._stream.done_writing()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._stream.code()
        await self.abandon()

    async def abandon(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
        await self._channel.close()

    async def _read(self) -> None:
        while (response := await self._stream.read()) is not aio.EOF:
            match response.WhichOneof("message"):
                case "command":
                    self._listener.on_command(response.command)
                case "settings":
                    self._listener.on_settings(response.settings)
                case "bundle_notice":
                    self._listener.on_bundle(response.bundle_notice.bundle_version)
                case "acknowledgement":
                    self._outbox.acknowledge(response.acknowledgement.id)
                case "goodbye":
                    self.goodbye = response.goodbye.reason
                case _:
                    pass  # from a newer gateway: not for us

    async def _write(self) -> None:
        while True:
            await self._is_primary.wait()
            message = self._outbox.take(resend_after=self._resend_after)
            if message is None:
                await self._outbox.wait(self._resend_after)
                continue
            try:
                await self._send(message)
            except (aio.AioRpcError, asyncio.InvalidStateError):
                # The reader sees the same end and says why; results are asked for again.
                return

    async def _send(self, message: session_pb2.ConnectRequest) -> None:
        is_newer = message.sequence > self._first
        message.sequence = message.sequence - self._first + 1 if is_newer else 0
        await self._stream.write(message)

    async def _failure(self, error: Exception) -> Exception:
        """Why the stream ended. Writing to an ended stream only says that it ended."""
        if isinstance(error, aio.AioRpcError):
            return from_rpc(error)
        code, details = await self._stream.code(), await self._stream.details()
        trailers = await self._stream.trailing_metadata()
        initial = aio.Metadata()
        return from_rpc(aio.AioRpcError(code, initial, trailers or initial, details))
