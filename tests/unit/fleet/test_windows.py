from __future__ import annotations

from tests.fleet.windows import Return, misses

SERVED = 100.0


def came_back(*asked: float, window: float = 10.0) -> list[Return]:
    return [Return(name="agent-1", window=window, asked=asked)]


def test_agent_that_asked_once_within_its_window_is_back_in_it():
    assert misses(came_back(SERVED + 9.9), served=SERVED, lateness=0.0) == []


def test_agent_that_asked_before_the_gateway_was_seen_to_serve_is_back_in_it():
    assert misses(came_back(SERVED - 0.01), served=SERVED, lateness=0.0) == []


def test_agent_that_asked_after_its_window_is_named():
    (miss,) = misses(came_back(SERVED + 10.2), served=SERVED, lateness=0.1)
    assert miss == ("agent-1 asked 10.20 s after the gateway served again; its window was 10.00 s")


def test_agent_whose_first_asking_opened_no_session_is_named():
    (miss,) = misses(came_back(SERVED + 1, SERVED + 3), served=SERVED, lateness=0.0)
    assert "asked 2 times" in miss


def test_lateness_of_the_observer_is_not_the_agents():
    assert misses(came_back(SERVED + 10.2), served=SERVED, lateness=0.3) == []
