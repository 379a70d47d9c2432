"""A bounded number of calls in progress, of which no address takes all.

Many honest guests may share one address (a NAT, one machine), and a thousand of them may come back
in one moment: they wait in line. To refuse them would only make each one ask again and again,
which costs more than the answer. One address fills half of the places at most; who comes from
another one passes its line.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator

from trove_grpc import errors

# Those who find the line too long come again within so many seconds, not all in one moment.
_COME_AGAIN = 5.0


class Places:
    """`count` places; at most `line` calls wait, of one address half of that."""

    def __init__(self, count: int, *, line: int) -> None:
        self._places = asyncio.Semaphore(count)
        self._share = max(1, count // 2)
        self._line = line
        self._lines: dict[str, asyncio.Semaphore] = {}
        self._present: Counter[str] = Counter()  # waiting or in progress, by address

    @contextlib.asynccontextmanager
    async def taken(self, address: str) -> AsyncIterator[None]:
        """Hold a place; waits for it. Raises OverloadedError when too many wait already.

        How long somebody waits is bounded by the deadline of the call.
        """
        if (
            self._present.total() >= self._line
            or self._present[address] >= self._share + self._line // 2
        ):
            raise errors.OverloadedError(
                "too many enrolments at once",
                retry_after=_COME_AGAIN * random.uniform(0.2, 1),  # noqa: S311  a spread
            )
        line = self._lines.setdefault(address, asyncio.Semaphore(self._share))
        self._present[address] += 1
        try:
            async with line, self._places:
                yield
        finally:
            self._present[address] -= 1
            if not self._present[address]:
                del self._present[address], self._lines[address]
