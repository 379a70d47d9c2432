"""Tells guests when the time over which they should come back has changed.

A guest hears a window when its session opens, and windows grow with the number of sessions: the
first guests of a fleet would keep the window of a small one, and would all come back first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from google.protobuf import duration_pb2

from gateway.guest.registry import Registry
from trove_grpc import process
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

log = logging.getLogger(__name__)

# Smaller changes are not worth a message to every guest. Telling all again for each such growth,
# a guest hears of about four while its fleet comes to be.
_WORTH_TELLING = 1.25


async def announce_windows(
    registry: Registry,
    window: Callable[[], duration_pb2.Duration],
    stop: asyncio.Event,
    *,
    interval: float,
) -> None:
    """Compare `window` with what guests were told last every `interval` seconds until `stop`."""
    told = window()
    while not await process.wait_or_timeout(stop, interval):
        now = window()
        before, after = _seconds(told), _seconds(now)
        if before / _WORTH_TELLING < after < before * _WORTH_TELLING:
            continue
        log.info("reconnect window %.1f s; telling %d sessions", after, len(registry))
        settings = guest_pb2.Settings(reconnect_window=now)
        for session in registry:
            session.change_settings(settings)
        told = now


def _seconds(window: duration_pb2.Duration) -> float:
    return window.ToTimedelta().total_seconds()
