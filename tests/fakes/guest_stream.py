"""A guest's end of the session stream, driven by hand."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from trove_grpc.client import PeerChannel
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2_grpc as rpc
from trove_grpc.gen.guest.v1 import identity_service_pb2_grpc as identity_rpc
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory


class GuestStream:
    """Opens a stream, sends, and sorts what comes down into queues by kind."""

    def __init__(self, address: str, identity: IdentityDirectory, *, boot_id: str = "boot-1"):
        self.channel = PeerChannel([address], identity=identity, server_role=Role.GATEWAY)
        self.hello = pb2.Hello(boot_id=boot_id, machine_id_hash="machine", agent_version="1.0")
        self.call: Any = None
        self.answers_pings = True
        self.received: list[pb2.ConnectResponse] = []
        self._queues: dict[str, asyncio.Queue[Any]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._sequence = 0

    async def open(self) -> pb2.Welcome:
        """Connect, say Hello, wait for Welcome; raises AioRpcError when refused."""
        await self.begin()
        return await self.expect("welcome")

    async def begin(self) -> None:
        """Connect and say Hello."""
        await self.begin_silently()
        await self.send(hello=self.hello)

    async def begin_silently(self) -> None:
        """Connect and say nothing."""
        self.call = self.channel.stub(rpc.GuestSessionServiceStub).Connect()
        self._reader = asyncio.create_task(self._read())

    async def send(self, **message: Any) -> None:
        self._sequence += 1
        await self.call.write(pb2.ConnectRequest(sequence=self._sequence, **message))

    async def expect(self, kind: str, *, seconds: float = 10.0) -> Any:
        """The next message of a kind; raises the call's error if it ends before."""
        getting = asyncio.ensure_future(self._queue(kind).get())
        await asyncio.wait(
            {getting, self._reader}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if getting.done():
            return getting.result()
        getting.cancel()
        if self._reader.done():
            self._reader.result()
            raise AssertionError(f"the stream ended without {kind}")
        raise TimeoutError(f"no {kind} in {seconds} s")

    async def ended(self, *, seconds: float = 10.0) -> None:
        """Wait for the end of the stream; raises its AioRpcError if it has one."""
        async with asyncio.timeout(seconds):
            await asyncio.shield(self._reader)

    @property
    def identity(self) -> identity_rpc.IdentityServiceStub:
        return self.channel.stub(identity_rpc.IdentityServiceStub)

    def _queue(self, kind: str) -> asyncio.Queue[Any]:
        return self._queues.setdefault(kind, asyncio.Queue())

    async def _read(self) -> None:
        async for response in self.call:
            self.received.append(response)
            kind = response.WhichOneof("message")
            message = getattr(response, kind)
            if kind == "command" and message.HasField("ping") and self.answers_pings:
                await self.send(
                    command_result=pb2.CommandResult(
                        command_id=message.command_id, ping=pb2.PingResult()
                    )
                )
            self._queue(kind).put_nowait(message)

    async def close(self) -> None:
        if self.call is not None:
            self.call.cancel()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
            if not self._reader.cancelled():
                self._reader.exception()
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
