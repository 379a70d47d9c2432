"""Token buckets by key, in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable


class Allowance:
    """`burst` at once for each key, refilled at `per_second`.

    Keys used longest ago are forgotten beyond `keys`: they get a full bucket again, which is the
    price of a bound that nobody can exhaust.
    """

    def __init__(
        self,
        *,
        per_second: float,
        burst: float,
        keys: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = per_second
        self._burst = burst
        self._keys = keys
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, key: str) -> float:
        """Seconds until one more is allowed; 0 when it is now. Takes nothing."""
        return max(0.0, (1.0 - self._level(key)) / self._rate)

    def take(self, key: str) -> float:
        """Take one if allowed and return 0; else take nothing and return the seconds to wait."""
        if (wait := self.wait(key)) > 0:
            return wait
        self._buckets[key] = (self._level(key) - 1.0, self._clock())
        self._buckets.move_to_end(key)
        while len(self._buckets) > self._keys:
            self._buckets.popitem(last=False)
        return 0.0

    def _level(self, key: str) -> float:
        level, at = self._buckets.get(key, (self._burst, self._clock()))
        return min(self._burst, level + (self._clock() - at) * self._rate)
