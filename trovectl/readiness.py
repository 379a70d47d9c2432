"""Whether a process of the control plane serves: asked, never assumed after a pause."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from trove_grpc.client import PeerChannel, call, open_local_channel
from trove_grpc.errors import TroveError
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory

_TIMEOUT = 2.0


class Probe(Protocol):
    """Asks one process."""

    async def reason(self) -> str:
        """Why it is not ready; empty when it is."""

    async def close(self) -> None: ...


class GrpcProbe:
    """grpc.health over mutual TLS, as an operator."""

    def __init__(self, address: str, role: Role, identity: IdentityDirectory) -> None:
        self._channel = PeerChannel([address], identity=identity, server_role=role)

    async def reason(self) -> str:
        try:
            stub = self._channel.stub(health_pb2_grpc.HealthStub)
        except TroveError as error:
            return error.message
        return await _check(stub)

    async def close(self) -> None:
        await self._channel.close()


class SocketProbe:
    """grpc.health over a UNIX socket: ready before anyone has a certificate."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._channel: aio.Channel | None = None

    async def reason(self) -> str:
        if self._channel is None:
            self._channel = open_local_channel(self._socket)
        return await _check(health_pb2_grpc.HealthStub(self._channel))

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


class HttpProbe:
    """GET /healthcheck, answered by the very process `pid` names.

    The port of an HTTP server proves nothing: another installation may hold it, and its answer
    would make ours look ready while it cannot start.
    """

    def __init__(self, address: str, pid: Callable[[], int]) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._pid = pid

    async def reason(self) -> str:
        try:
            async with asyncio.timeout(_TIMEOUT):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                try:
                    request = (
                        f"GET /healthcheck HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
                        "Connection: close\r\n\r\n"
                    )
                    writer.write(request.encode())
                    head = (await reader.readuntil(b"\r\n\r\n")).decode(errors="replace")
                finally:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
        except TimeoutError:
            return f"no answer within {_TIMEOUT:g} s"
        except OSError as error:
            return f"does not answer: {error.strerror or error}"
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return "does not answer in HTTP"
        first, *headers = head.splitlines() or [""]
        status = first.split()[1] if len(first.split()) > 1 else "nothing"
        if not status.startswith("2"):
            return f"/healthcheck answers {status}"
        if f"x-process-id: {self._pid()}" not in {header.lower() for header in headers}:
            return f"another process answers on {self._host}:{self._port}"
        return ""

    async def close(self) -> None:
        """Nothing is kept open."""


async def _check(stub: health_pb2_grpc.HealthStub) -> str:
    try:
        answer = await call(stub.Check, health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)
    except TroveError as error:
        return f"does not answer: {error.message}"
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
