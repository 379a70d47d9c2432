"""The arithmetic of leased rates: in no minute more than the limit, whoever holds what."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass
from typing import Any

import pytest

from conductor import rates
from conductor.config import Rates
from conductor.rates import Ended, Window
from trove_grpc.errors import InvalidRequestError

LIMIT = 40
SLICE = 10
LIFETIME = 5.0
START = 1_000_000.0


def lease(
    window: Window, name: str, at: float, *ended: Ended, limit: int = LIMIT
) -> tuple[Window, int]:
    window = rates.take_back(rates.advance(window, START + at), ended)
    return rates.grant(window, name, limit=limit, slice_size=SLICE, lifetime=LIFETIME)


def test_slices_shrink_towards_the_limit_and_add_up_to_it():
    window, granted = Window(), []
    for number in range(12):
        window, amount = lease(window, f"l{number}", 0)
        granted.append(amount)
    assert granted == [10, 10, 10, 5, 3, 1, 1, 0, 0, 0, 0, 0]
    assert sum(granted) == LIMIT
    assert rates.free_in(window) == LIFETIME + rates.WINDOW


def test_repeat_answers_the_same_slice_and_counts_once():
    window, first = lease(Window(), "l", 0)
    window, second = lease(window, "l", 1)
    assert (first, second) == (SLICE, SLICE)
    assert rates.remaining(window, LIMIT) == LIMIT - SLICE


def test_what_is_given_back_is_free_at_once():
    window, _ = lease(Window(), "a", 0)
    window, _ = lease(window, "b", 3, Ended("a", 2))
    assert rates.remaining(window, LIMIT) == LIMIT - 2 - SLICE


def test_slice_may_be_given_back_long_after_it_expired():
    window, _ = lease(Window(), "a", 0)
    window, _ = lease(window, "b", 30)
    window, _ = lease(window, "c", 31, Ended("a", 1))
    assert rates.remaining(window, LIMIT) == LIMIT - 1 - 2 * SLICE


def test_nobody_gives_back_more_than_he_holds_or_what_is_anothers():
    window, _ = lease(Window(), "a", 0)
    window, _ = lease(window, "b", 1, Ended("a", 10**9), Ended("unknown", -5), Ended("a", 0))
    assert rates.remaining(window, LIMIT) == LIMIT - 2 * SLICE


def test_slice_that_nobody_gives_back_counts_for_a_minute_after_its_expiry():
    window, _ = lease(Window(), "a", 0)
    edge = LIFETIME + rates.WINDOW
    assert rates.remaining(rates.advance(window, START + edge - 0.1), LIMIT) == LIMIT - SLICE
    assert rates.remaining(rates.advance(window, START + edge), LIMIT) == LIMIT


def test_conductor_whose_clock_is_late_does_not_turn_time_back():
    window, _ = lease(Window(), "a", 10)
    window, _ = lease(window, "b", -50)
    assert window.update_time == START + 10
    assert window.leases[1].expire_time == START + 10 + LIFETIME


def test_lowered_limit_leaves_nothing_rather_than_less():
    window, _ = lease(Window(), "a", 0)
    assert rates.remaining(window, 3) == 0
    assert lease(window, "b", 0, limit=3)[1] == 0


def test_row_stays_small_however_many_slices_there_were():
    window = Window()
    for number in range(4000):
        at = number * 0.05
        window, _ = lease(window, f"l{number}", at, Ended(f"l{number - 1}", 1), limit=10**6)
    assert len(window.leases) == 1
    assert len(window.spent) <= rates.WINDOW + 1


@dataclass
class Holder:
    """An API process that keeps to its slice."""

    lease_id: str = ""
    granted: int = 0
    left: int = 0
    expire_time: float = 0.0


@pytest.mark.parametrize("seed", range(8))
def test_over_any_minute_at_most_the_limit_passes_through_all_processes(seed: int):
    chance = random.Random(seed)  # noqa: S311  no secret
    window, passed, at, count = Window(), [], 0.0, 0
    holders = [Holder() for _ in range(chance.randint(1, 5))]
    for _ in range(6000):
        at += chance.expovariate(chance.choice((0.5, 5, 50)))
        holder = chance.choice(holders)
        if not holder.left or at >= holder.expire_time:
            ended = [Ended(holder.lease_id, holder.granted - holder.left)]
            if chance.random() < 0.1:
                ended = []  # a process that was started anew knows nothing of its slice
            count += 1
            holder.lease_id, holder.expire_time = f"l{count}", at + LIFETIME
            # The conductor hears of it a little later, and its clock is a little off.
            heard = at + chance.uniform(0, 0.3)
            window, holder.granted = lease(window, holder.lease_id, heard, *ended)
            holder.left = holder.granted
        if holder.left:
            holder.left -= 1
            passed.append(at)
    assert len(passed) > LIMIT
    for index, time in enumerate(passed):
        within = [other for other in passed[index : index + LIMIT + 1] if other < time + 60]
        assert len(within) <= LIMIT


@pytest.mark.parametrize(
    "settings",
    [
        {"get": -2},
        {"manage": -5},
        {"slice": 0},
        {"lifetime": dt.timedelta(seconds=1)},
        {"lifetime": dt.timedelta(seconds=61)},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]):
    with pytest.raises(InvalidRequestError, match=f"rates.{next(iter(settings))}"):
        Rates(**settings)
