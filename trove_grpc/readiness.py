"""grpc.health says SERVING while the process's database answers, and NOT_SERVING while not.

A process whose database is away lives on and serves again by itself; a restart would not help.
Supervisors and load balancers read the health and send their calls elsewhere meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from trove_grpc import process
from trove_grpc.errors import OverloadedError, TroveError
from trove_grpc.server import Server

log = logging.getLogger(__name__)

_INTERVAL = 1.0
_TIMEOUT = 5.0  # an answer that takes longer helps no caller: most deadlines are as short


async def follow(
    servers: Sequence[Server],
    check: Callable[[], Awaitable[object]],
    stop: asyncio.Event,
    *,
    interval: float = _INTERVAL,
    timeout: float = _TIMEOUT,
) -> None:
    """Until `stop`: run `check` and say what it showed on every server."""
    is_serving = True
    while not await process.wait_or_timeout(stop, interval):
        reason = await _failure(check, timeout)
        if bool(reason) != is_serving:
            continue
        is_serving = not reason
        if is_serving:
            log.info("serving again")
        else:
            log.error("not serving: %s", reason)
        for server in servers:
            await server.set_serving(is_serving)


async def _failure(check: Callable[[], Awaitable[object]], timeout: float) -> str:
    try:
        async with asyncio.timeout(timeout):
            await check()
    except OverloadedError:
        return ""  # busy is not away: those who wait are being served
    except TimeoutError:
        return f"the database does not answer within {timeout:g} s"
    except TroveError as error:
        return error.message
    return ""
