"""What every process does at its start and end."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Mapping

from trove_grpc.errors import TroveError

log = logging.getLogger(__name__)

_PR_SET_DUMPABLE = 4


def harden() -> None:
    """Private files, no core dumps, no ptrace by the same user: keys are in this memory."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def run(
    serve: Callable[[asyncio.Event], Awaitable[None]], *, statuses: Mapping[str, int] | None = None
) -> int:
    """Run `serve` until SIGINT or SIGTERM sets its event; return the exit status.

    `statuses` are those of errors by their reason; any other one is 1.
    """

    async def main() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        status = 0
        try:
            await serve(stop)
        except* TroveError as group:
            found = _leaves(group)
            for error in found:
                log.critical("%s", error)
            status = max((statuses or {}).get(error.reason, 1) for error in found)
        return status

    return asyncio.run(main())


def _leaves(group: BaseExceptionGroup[TroveError]) -> list[TroveError]:
    found: list[TroveError] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found


async def wait_or_timeout(event: asyncio.Event, seconds: float) -> bool:
    """Wait for `event` at most `seconds`; True when it is set. The pause of periodic loops.

    Not wait_for: Python 3.11's swallows a cancellation that comes together with the event.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
