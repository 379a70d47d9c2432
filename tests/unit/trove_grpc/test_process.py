"""Waiting for an event or a while, as every periodic loop does."""

from __future__ import annotations

import asyncio

import pytest

from guestagent.outbox import Outbox
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as session_pb2
from trove_grpc.process import wait_or_timeout


async def test_it_says_whether_the_event_came():
    event = asyncio.Event()
    assert not await wait_or_timeout(event, 0.001)
    event.set()
    assert await wait_or_timeout(event, 10)


async def cancel_after(turns: int, waiting: asyncio.Task[object]) -> bool:
    """Cancel so many turns of the loop from now; whether there was something to cancel."""
    for _ in range(turns):
        await asyncio.sleep(0)
    was_asked = waiting.cancel()
    await asyncio.wait({waiting})
    return was_asked


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancellation_that_meets_the_event_is_not_swallowed(turns):
    event = asyncio.Event()
    waiting = asyncio.create_task(wait_or_timeout(event, 10))
    await asyncio.sleep(0)  # it waits now
    event.set()
    assert await cancel_after(turns, waiting) == waiting.cancelled()


@pytest.mark.parametrize("turns", range(5))
async def test_a_writer_that_is_cancelled_while_something_is_put_ends(turns):
    outbox = Outbox(now=asyncio.get_running_loop().time)
    waiting = asyncio.create_task(outbox.wait(10))
    await asyncio.sleep(0)
    outbox.put_heartbeat(session_pb2.Heartbeat())
    assert await cancel_after(turns, waiting) == waiting.cancelled()
