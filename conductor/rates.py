"""How much of a rate is free: what API processes were leased, counted over a sliding minute.

A slice counts from its grant until a minute after the last moment at which it may have been used:
its expiry, or the moment its holder gave it back. So in no minute are more requests let through
than the limit, by however many processes, and none has to agree with another on where a minute
begins. Nothing here knows a database or a clock; times are seconds since the epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

WINDOW = 60.0
UNLIMITED = -1


@dataclass(frozen=True, slots=True)
class Lease:
    """A slice in the hands of an API process."""

    id: str
    amount: int
    expire_time: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A slice that its holder gave back, and how much of it was used."""

    id: str
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One rate of one tenant.

    `spent` holds what given-back slices were used for, by the second (rounded up) of the last
    moment it may have been: at most one entry for each second of the window, however many
    slices there were.
    """

    leases: tuple[Lease, ...] = ()
    spent: Mapping[int, int] = field(default_factory=dict)
    # The newest time at which it was looked at. Two conductors' clocks may differ; time here
    # never goes back.
    update_time: float = 0.0


def advance(window: Window, now: float) -> Window:
    """The window at `now`, without what is older than a minute."""
    now = max(now, window.update_time)
    return Window(
        leases=tuple(lease for lease in window.leases if lease.expire_time + WINDOW > now),
        spent={second: used for second, used in window.spent.items() if second + WINDOW > now},
        update_time=now,
    )


def take_back(window: Window, ended: Iterable[Ended]) -> Window:
    """Count of given-back slices only what was used; unknown ones are ignored."""
    held = {lease.id: lease for lease in window.leases}
    spent = dict(window.spent)
    for end in ended:
        lease = held.pop(end.id, None)
        if lease is not None and end.used > 0:
            second = math.ceil(min(lease.expire_time, window.update_time))
            spent[second] = spent.get(second, 0) + min(end.used, lease.amount)
    return Window(leases=tuple(held.values()), spent=spent, update_time=window.update_time)


def grant(
    window: Window, lease_id: str, *, limit: int, slice_size: int, lifetime: float
) -> tuple[Window, int]:
    """Lease a slice; returns its size, 0 when nothing is free.

    Never more than half of what is free, so that near the limit one process does not sit on what
    another needs. A repeat answers the slice of before.
    """
    for lease in window.leases:
        if lease.id == lease_id:
            return window, lease.amount
    amount = min(slice_size, math.ceil(remaining(window, limit) / 2))
    if amount == 0:
        return window, 0
    lease = Lease(lease_id, amount, window.update_time + lifetime)
    granted = Window(
        leases=(*window.leases, lease), spent=window.spent, update_time=window.update_time
    )
    return granted, amount


def remaining(window: Window, limit: int) -> int:
    """What is free; not negative, though a limit may have been lowered."""
    counted = sum(lease.amount for lease in window.leases) + sum(window.spent.values())
    return max(0, limit - counted)


def free_in(window: Window) -> float:
    """Seconds until something of what counts now counts no more; 0 when nothing does."""
    ends = [lease.expire_time for lease in window.leases] + list(window.spent)
    return max(0.0, min(ends) + WINDOW - window.update_time) if ends else 0.0
