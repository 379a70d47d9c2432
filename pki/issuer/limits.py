"""Bounds how often one peer may fail, and how much it may have written; in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from trove_grpc.errors import OverloadedError

_WINDOW = 60.0
_MAX_PEERS = 10_000
# Of one request: each must fit at some time.
MOST_ROWS = 64


class FailureLimiter:
    """Counts failures of each peer over a minute; honest peers share no limit with anybody.

    When more peers fail than are remembered, the one that failed longest ago is forgotten: an
    attacker with that many addresses is for the firewall.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, peer: str) -> None:
        """Raise OverloadedError when `peer` failed too often of late."""
        failures = self._failures.get(peer)
        if failures is None:
            return
        now = self._clock()
        while failures and failures[0] <= now - _WINDOW:
            failures.popleft()
        if not failures:
            del self._failures[peer]
        elif len(failures) >= self._per_minute:
            raise OverloadedError(
                "too many failed attempts; retry later",
                reason="TOO_MANY_FAILURES",
                retry_after=max(1.0, failures[0] + _WINDOW - now),
            )

    def count(self, peer: str) -> None:
        """Note a failure of `peer`."""
        failures = self._failures.setdefault(peer, deque(maxlen=self._per_minute))
        failures.append(self._clock())
        self._failures.move_to_end(peer)
        if len(self._failures) > _MAX_PEERS:
            self._failures.popitem(last=False)


class RowAllowance:
    """Rows of the audit that one gateway may have written: a bucket that a minute fills.

    A peer in good standing keeps what it could not tell and tells it later, summed up.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_minute / _WINDOW
        self._most = float(max(2 * per_minute, MOST_ROWS))
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # rows, at which time

    def take(self, peer: str, rows: int) -> None:
        """Raise OverloadedError when `peer` had too many of late; takes nothing then."""
        now = self._clock()
        rows_left, then = self._left.get(peer, (self._most, now))
        rows_left = min(self._most, rows_left + (now - then) * self._per_second)
        if rows_left < rows:
            raise OverloadedError(
                "too many refusals for the audit; keep them and tell them summed up",
                reason="TOO_MANY_REFUSALS",
                subject=peer,
                retry_after=(rows - rows_left) / self._per_second,
            )
        self._left[peer] = (rows_left - rows, now)
        self._left.move_to_end(peer)
        if len(self._left) > _MAX_PEERS:
            self._left.popitem(last=False)
