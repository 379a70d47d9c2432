"""Health follows the database: away, slow, busy, back."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from trove_grpc import readiness
from trove_grpc.client import call, open_local_channel
from trove_grpc.errors import OverloadedError, UnavailableError
from trove_grpc.server import build_local_server

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Database:
    """Answers as the test says; counts the questions."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.never: asyncio.Event | None = None
        self.asked = 0

    async def check(self) -> None:
        self.asked += 1
        if self.never is not None:
            await self.never.wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
async def health() -> AsyncIterator[tuple[Database, health_pb2_grpc.HealthStub]]:
    stop = asyncio.Event()
    database = Database()
    with tempfile.TemporaryDirectory(prefix="trove-") as folder:
        path = Path(folder) / "s"
        server = build_local_server(path, register=lambda _server: None)
        await server.start()
        follower = asyncio.create_task(
            readiness.follow([server], database.check, stop, interval=0.01, timeout=0.1)
        )
        async with contextlib.AsyncExitStack() as stack:
            channel = open_local_channel(path)
            stack.push_async_callback(channel.close)
            yield database, health_pb2_grpc.HealthStub(channel)
        stop.set()
        await follower
        await server.stop(0)


async def shows(stub: health_pb2_grpc.HealthStub, status: int) -> None:
    async with asyncio.timeout(10):
        while await status_of(stub) != status:
            pass


async def status_of(stub: health_pb2_grpc.HealthStub) -> int:
    answer = await call(stub.Check, health_pb2.HealthCheckRequest(), timeout=5)
    return int(answer.status)


async def test_process_serves_again_once_its_database_is_back(health) -> None:
    database, stub = health
    await shows(stub, SERVING)
    database.error = UnavailableError("away")
    await shows(stub, NOT_SERVING)
    database.error = None
    await shows(stub, SERVING)


async def test_database_that_never_answers_is_away(health) -> None:
    database, stub = health
    database.never = asyncio.Event()
    await shows(stub, NOT_SERVING)
    database.never.set()
    await shows(stub, SERVING)


async def test_busy_database_is_not_away(health) -> None:
    database, stub = health
    database.error = OverloadedError("many wait", retry_after=1)
    before = database.asked
    async with asyncio.timeout(10):
        while database.asked < before + 5:
            assert await status_of(stub) == SERVING
