"""Whether anything listens where a gateway should be. Says nothing about who it is."""

from __future__ import annotations

import asyncio
import contextlib

# A host that drops what is sent to it answers nothing at all.
_DIAL_SECONDS = 5.0


async def is_listening(endpoint: str) -> bool:
    """Whether "host:port" takes a connection: a round trip, a hundredth of a handshake."""
    host, _, port = endpoint.rpartition(":")
    try:
        async with asyncio.timeout(_DIAL_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError:  # a timeout is one
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
