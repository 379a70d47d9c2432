"""Whether a fleet came back in its windows: the definition of docs/reference/fleet.md, checked.

A gateway that was away for a while serves again at a moment. From that moment on each agent has
the window it was told last, or a tenth of the outage if that is longer; it is back in its window
when

* it asked within that time, and
* the session it asked for first was opened: the gateway kept up with what it had asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """How one agent came back. Moments on one clock, seconds."""

    name: str
    window: float  # that holds for it
    asked: tuple[float, ...]  # each time it said Hello after the gateway was killed


def misses(returns: Iterable[Return], *, served: float, lateness: float) -> list[str]:
    """Why who was not back in its window; `lateness` is that of the observer's own clock."""
    found = []
    for each in returns:
        since = [moment - served for moment in each.asked if moment >= served]
        late = since[0] - each.window if since else 0.0
        if late > lateness:
            found.append(
                f"{each.name} asked {since[0]:.2f} s after the gateway served again; "
                f"its window was {each.window:.2f} s"
            )
        if len(since) > 1:
            found.append(
                f"{each.name} asked {len(since)} times after the gateway served again: "
                f"at {', '.join(f'{moment:.2f}' for moment in since)} s"
            )
    return found
