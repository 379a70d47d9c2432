"""What a gateway does between two attempts to tell of its guests."""

from __future__ import annotations

from itertools import islice

from gateway.guest.sightings import pauses


def test_a_gateway_asks_an_issuer_that_fails_less_and_less_often() -> None:
    seconds = list(islice(pauses(), 50))
    assert min(seconds) > 0
    assert seconds == sorted(seconds)
    assert seconds[-2:] == [5.0, 5.0]
