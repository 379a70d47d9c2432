from __future__ import annotations

from gateway.guest.limits import Allowance


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_burst_passes_then_the_rate_decides():
    clock = Clock()
    allowance = Allowance(per_second=2.0, burst=3, clock=clock)
    assert [allowance.take("a") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert allowance.take("a") == 0.5
    clock.now += 0.5
    assert allowance.take("a") == 0.0


def test_keys_do_not_share_their_allowance():
    allowance = Allowance(per_second=1.0, burst=1, clock=Clock())
    assert allowance.take("a") == 0.0
    assert allowance.take("b") == 0.0
    assert allowance.take("a") > 0


def test_waiting_time_can_be_asked_without_taking():
    allowance = Allowance(per_second=1.0, burst=1, clock=Clock())
    assert [allowance.wait("a") for _ in range(3)] == [0.0, 0.0, 0.0]


def test_memory_is_bounded_and_the_oldest_key_is_forgotten():
    allowance = Allowance(per_second=0.001, burst=1, keys=2, clock=Clock())
    for key in ("a", "b", "c"):
        allowance.take(key)
    assert len(allowance._buckets) == 2
    assert allowance.take("a") == 0.0
    assert allowance.take("c") > 0
