"""When agents dial, on a clock that only these tests move."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest

from guestagent.reconnect import Backoff, Reconnect

WINDOW = 10.0
LONGEST = 120.0


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def reconnect(clock: Clock, *, seed: int = 0, window: float = WINDOW) -> Reconnect:
    return Reconnect(
        window=window,
        first_pause=1.0,
        longest_pause=LONGEST,
        now=clock,
        draw=random.Random(seed).random,  # noqa: S311  a spread
    )


def returns(away: float, *, agents: int = 2000, window: float = WINDOW) -> list[float]:
    """How long after the gateway's return each agent of a fleet dials; it was `away` so long."""
    clock = Clock()
    died = clock.time
    back = died + away
    fleet = [reconnect(clock, seed=number, window=window) for number in range(agents)]
    dials = [(died + agent.session_ended(), number) for number, agent in enumerate(fleet)]
    heapq.heapify(dials)
    met = []
    while dials:
        clock.time, number = heapq.heappop(dials)
        if clock.time >= back:
            met.append(clock.time - back)
        else:
            again = clock.time + fleet[number].nobody_listened()
            heapq.heappush(dials, (again, number))
    return met


def shares(met: list[float], window: float, parts: int = 10) -> list[float]:
    """The agents in each part of the window, of those that an even spread would have there."""
    counted = [0] * parts
    for moment in met:
        counted[min(parts - 1, int(moment / window * parts))] += 1
    return [count * parts / len(met) for count in counted]


@pytest.mark.parametrize("away", [0.0, 0.3, 2.4, 9.9, 10.0, 37.0, 99.0])
def test_every_agent_dials_within_one_window_of_the_gateways_return(away):
    met = returns(away)
    assert len(met) == 2000
    assert max(met) <= WINDOW


@pytest.mark.parametrize("away", [0.0, 0.3, 2.4, 9.9, 10.0, 37.0, 99.0])
def test_agents_come_back_as_evenly_as_they_were_spread(away):
    assert all(0.7 < share < 1.3 for share in shares(returns(away), WINDOW))


@pytest.mark.parametrize("away", [600.0, 3600.0])
def test_window_is_a_tenth_of_a_long_outage_or_the_longest_pause(away):
    met = returns(away)
    window = min(LONGEST, away / 10)
    assert max(met) <= window
    assert all(share < 2 for share in shares(met, window))


def test_agent_keeps_its_place_while_nobody_listens():
    clock = Clock()
    agent = reconnect(clock)
    clock.time += agent.session_ended()
    place = clock.time
    for number in range(1, 5):
        clock.time += agent.nobody_listened()
        assert clock.time == pytest.approx(place + number * WINDOW)


def test_agent_that_dialled_for_longer_than_a_window_takes_its_next_place():
    clock = Clock()
    agent = reconnect(clock)
    clock.time += agent.session_ended()
    place = clock.time
    clock.time += 2.5 * WINDOW
    clock.time += agent.nobody_listened()
    assert clock.time == pytest.approx(place + 3 * WINDOW)


def test_days_without_a_gateway_cost_a_dial_in_the_longest_pause():
    clock = Clock()
    agent = reconnect(clock, window=0.0)
    began = clock.time
    clock.time += agent.session_ended()
    dials = 0
    while clock.time < began + 86_400:
        clock.time += agent.nobody_listened()
        dials += 1
    assert dials < 86_400 / LONGEST + 100


def test_window_of_nothing_does_not_make_a_busy_loop():
    clock = Clock()
    agent = reconnect(clock, window=0.0)
    assert agent.session_ended() == 0
    assert agent.nobody_listened() >= 0.5


def test_fleet_that_is_switched_on_before_its_gateway_is_spread():
    clock = Clock()
    pauses = [reconnect(clock, seed=number).nobody_listened() for number in range(2000)]
    assert max(pauses) <= WINDOW
    assert all(0.7 < share < 1.3 for share in shares(pauses, WINDOW))


def test_answers_that_are_no_session_make_pauses_grow_to_a_limit():
    clock = Clock()
    agent = reconnect(clock)
    pauses = [agent.refused(0.0) for _ in range(30)]
    assert pauses[0] <= 1.5
    assert all(LONGEST / 2 <= pause <= LONGEST * 1.5 for pause in pauses[-10:])


def test_agent_waits_at_least_as_long_as_the_gateway_asks():
    assert reconnect(Clock()).refused(60.0) == 60.0


@pytest.mark.parametrize("good_news", ["session_opened", "nobody_listened"])
def test_pauses_begin_anew_with_another_gateway_process(good_news):
    agent = reconnect(Clock())
    for _ in range(10):
        agent.refused(0.0)
    getattr(agent, good_news)()
    assert agent.refused(0.0) <= 1.5


def test_pauses_are_varied_by_half():
    draws = itertools.cycle([0.0, 0.5, 1.0])
    backoff = Backoff(10.0, 10.0, draw=lambda: next(draws))
    assert [backoff.next() for _ in range(3)] == [5.0, 10.0, 15.0]
