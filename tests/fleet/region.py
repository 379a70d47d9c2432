"""A region for measurements: issuer and conductor here, gateways as processes, many agents."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.integration.gateways.conftest import Guest, Region

_AT_ONCE = 16


@contextlib.asynccontextmanager
async def region() -> AsyncIterator[Region]:
    # A UNIX socket's path is short.
    root = Path(tempfile.mkdtemp(prefix="trove-region-"))
    try:
        async with contextlib.AsyncExitStack() as stack:
            yield Region(root, stack)
    finally:
        shutil.rmtree(root, ignore_errors=True)


async def guests(of: Region, count: int) -> list[Guest]:
    """Registered guests with a token each, not started."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one() -> Guest:
        async with slots:
            return await of.guest()

    return list(await asyncio.gather(*(one() for _ in range(count))))


def row(what: str, seconds: Sequence[float]) -> str:
    """A line of a table: p50, p99 and maximum."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"| {what} | {statistics.median(ordered):.3f} | {p99:.3f} | {ordered[-1]:.3f} |"
