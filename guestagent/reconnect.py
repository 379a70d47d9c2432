"""When an agent dials next. Arithmetic on a clock that is handed in; nothing here waits.

Three things can end a turn, and each has its own answer:

* A session that worked has ended. The agent draws its *place*, a random moment within the window
  the gateway asked for, so that a fleet comes back as evenly as its gateway can take it.
* Nobody listened. That says nothing about load, so the agent keeps its place: it dials one window
  later, and again. Whenever the gateway comes back, it meets each agent within one window and all
  of them as evenly as they were spread. Longer pauses here would only make agents late, and
  drawing anew would let half of them wait for two windows. As the outage lasts, the window is
  stretched to a tenth of it, so that days without a control plane cost a dial in two minutes.
* Somebody answered, and it was no session. More of the same would make it worse: pauses grow.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

_BACKOFF_FACTOR = 1.6
# A window may be zero; dialling an empty port may not take all of a processor.
_LEAST_WINDOW_SECONDS = 0.5
_STRETCH = 0.1


def stretched(window: float, away: float, *, longest: float) -> float:
    """Within this time of its gateway's return an agent asks, after an outage of `away`."""
    return max(window, _LEAST_WINDOW_SECONDS, min(_STRETCH * away, longest))


class Backoff:
    """Pauses that grow; reset by success."""

    def __init__(
        self, first: float, limit: float, *, draw: Callable[[], float] = random.random
    ) -> None:
        self._first, self._limit = first, limit
        self._draw = draw
        self._pause = first

    def reset(self) -> None:
        self._pause = self._first

    def next(self) -> float:
        pause = min(self._pause, self._limit)
        self._pause = min(self._pause * _BACKOFF_FACTOR, self._limit)
        return pause * (0.5 + self._draw())


class Reconnect:
    """The place of one agent among those of its gateway. All times in seconds."""

    def __init__(
        self,
        *,
        window: float,
        first_pause: float,
        longest_pause: float,
        now: Callable[[], float],
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`window` holds until a gateway asks for another; `draw` answers from [0, 1)."""
        self.window = window
        self._longest = longest_pause
        self._now = now
        self._draw = draw
        self._backoff = Backoff(first_pause, longest_pause, draw=draw)
        self._away_since: float | None = None
        self._place = 0.0

    def session_opened(self) -> None:
        self._backoff.reset()
        self._away_since = None

    def session_ended(self) -> float:
        """How long to wait after a session that worked."""
        pause = self.window * self._draw()
        self._away_since = self._now()
        self._place = self._away_since + pause
        return pause

    def nobody_listened(self) -> float:
        """How long to wait when there was nothing to talk to."""
        self._backoff.reset()  # who comes back is not who refused us
        now = self._now()
        if self._away_since is None:
            # Never had a place: a whole fleet may have been switched on at this moment.
            self._away_since = now
            self._place = now + self._stretched(0.0) * self._draw()
        else:
            window = self._stretched(now - self._away_since)
            missed = max(0, math.floor((now - self._place) / window))
            self._place += (missed + 1) * window
        return self._place - now

    def refused(self, at_least: float) -> float:
        """How long to wait after an answer that was no session; `at_least` is the gateway's."""
        now = self._now()
        if self._away_since is None:
            self._away_since = now
        self._place = now + max(self._backoff.next(), at_least)
        return self._place - now

    def _stretched(self, away: float) -> float:
        return stretched(self.window, away, longest=self._longest)
