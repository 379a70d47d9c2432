"""A ready answer counts only when the process we started gives it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_server import running_rest
from trovectl.readiness import HttpProbe


@contextlib.asynccontextmanager
async def speaking(answer: bytes) -> AsyncIterator[str]:
    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_the_rest_api_says_which_process_it_is():
    async with running_rest(FakeControlPlane()) as rest:
        address = f"127.0.0.1:{rest.port}"
        assert await HttpProbe(address, os.getpid).reason() == ""
        assert "another process" in await HttpProbe(address, lambda: 0).reason()


async def test_our_own_process_is_ready():
    answer = f"HTTP/1.1 200 OK\r\nX-Process-Id: {os.getpid()}\r\n\r\nOK".encode()
    async with speaking(answer) as address:
        assert await HttpProbe(address, os.getpid).reason() == ""


async def test_another_installation_on_our_port_is_not_us():
    for headers in ("X-Process-Id: 1\r\n", ""):
        answer = f"HTTP/1.1 200 OK\r\n{headers}\r\nOK".encode()
        async with speaking(answer) as address:
            reason = await HttpProbe(address, os.getpid).reason()
        assert "another process" in reason
        assert address in reason


async def test_what_is_not_http_or_not_well_is_said():
    async with speaking(b"220 smtp ready\r\n") as address:
        assert "HTTP" in await HttpProbe(address, os.getpid).reason()
    async with speaking(b"HTTP/1.1 503 Service Unavailable\r\n\r\n") as address:
        assert "503" in await HttpProbe(address, os.getpid).reason()
