"""A nonce is good once, for one instance, for a while."""

from __future__ import annotations

import pytest

from pki.issuer.nonces import LENGTH, Nonces
from trove_grpc.errors import OverloadedError, UnauthenticatedError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refusal(nonces: Nonces, nonce: bytes, instance_id: str = "a") -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        nonces.redeem(nonce, instance_id)
    return caught.value.reason


def test_nonce_is_good_once() -> None:
    nonces = Nonces(60)
    nonce = nonces.issue("a")
    nonces.redeem(nonce, "a")
    assert refusal(nonces, nonce) == "NONCE_USED"


def test_nonce_of_another_instance_is_refused_and_stays_good() -> None:
    nonces = Nonces(60)
    nonce = nonces.issue("b")
    assert refusal(nonces, nonce) == "NONCE_UNKNOWN"
    nonces.redeem(nonce, "b")


@pytest.mark.parametrize("spoil", ["", "short", "long"])
def test_nonce_of_another_length_is_refused(spoil: str) -> None:
    nonces = Nonces(60)
    nonce = nonces.issue("a")
    shown = {"": b"", "short": nonce[:-1], "long": nonce + b"x"}[spoil]
    assert refusal(nonces, shown) == "NONCE_UNKNOWN"


def test_no_bit_of_a_nonce_can_be_changed() -> None:
    nonces = Nonces(60)
    nonce = nonces.issue("a")
    for place in range(LENGTH):
        spoilt = bytearray(nonce)
        spoilt[place] ^= 1
        assert refusal(nonces, bytes(spoilt)) == "NONCE_UNKNOWN"


def test_nonce_runs_out() -> None:
    clock = Clock()
    nonces = Nonces(60, clock=clock)
    nonce = nonces.issue("a")
    clock.now += 60
    assert refusal(nonces, nonce) == "NONCE_EXPIRED"


def test_nonce_of_another_process_is_refused() -> None:
    assert refusal(Nonces(60), Nonces(60).issue("a")) == "NONCE_UNKNOWN"


def test_used_nonces_are_remembered_until_they_run_out_and_no_longer() -> None:
    clock = Clock()
    nonces = Nonces(60, most_used=2, clock=clock)
    first, second = nonces.issue("a"), nonces.issue("a")
    nonces.redeem(first, "a")
    clock.now += 30
    nonces.redeem(second, "a")
    with pytest.raises(OverloadedError):
        nonces.redeem(nonces.issue("a"), "a")
    clock.now += 31
    assert refusal(nonces, first) == "NONCE_EXPIRED"
    nonces.redeem(nonces.issue("a"), "a")
