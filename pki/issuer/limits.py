"""Bounds how often one peer may fail, in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from trove_grpc.errors import OverloadedError

_WINDOW = 60.0
_MAX_PEERS = 10_000


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
