"""What leaves for Barbican: opens under its own name and KEK, and not otherwise."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from pki.custody import CustodyError
from pki.custody.envelope import Kek, seal, unseal
from pki.requests import new_key

NAME = "trove-pki/local.trove/guest/g1/key"
KEK = Kek(Path("kek"), b"k" * 32)


def reason(envelope: bytes, name: str = NAME, kek: Kek = KEK) -> str:
    with pytest.raises(CustodyError) as refused:
        unseal(envelope, name, kek)
    return refused.value.reason


def test_sealed_key_opens_under_its_name_and_kek() -> None:
    key = new_key()
    assert unseal(seal(key, NAME, KEK), NAME, KEK).private_numbers() == key.private_numbers()


def test_envelope_shows_nothing_of_the_key_and_is_never_the_same() -> None:
    key = new_key()
    first, second = seal(key, NAME, KEK), seal(key, NAME, KEK)
    clear = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    scalar = key.private_numbers().private_value.to_bytes(32, "big")
    assert clear not in first
    assert scalar not in first
    assert first[-40:] != second[-40:]


def test_no_byte_of_an_envelope_can_be_changed() -> None:
    envelope = seal(new_key(), NAME, KEK)
    for place in range(len(envelope)):
        changed = bytearray(envelope)
        changed[place] ^= 1
        assert reason(bytes(changed)).startswith("CUSTODY_"), place


def test_no_byte_of_an_envelope_can_be_missing() -> None:
    envelope = seal(new_key(), NAME, KEK)
    for length in range(len(envelope)):
        assert reason(envelope[:length]) in ("CUSTODY_FOREIGN", "CUSTODY_DAMAGED"), length


@pytest.mark.parametrize(
    "name",
    ["trove-pki/local.trove/guest/g2/key", "trove-pki/other.trove/guest/g1/key"],
)
def test_envelope_of_another_name_does_not_open(name: str) -> None:
    assert reason(seal(new_key(), NAME, KEK), name) == "CUSTODY_DAMAGED"


def test_other_kek_is_told_from_damage() -> None:
    other = Kek(Path("other"), b"o" * 32)
    assert reason(seal(new_key(), NAME, KEK), kek=other) == "CUSTODY_OTHER_KEK"


def test_kek_does_not_show_itself() -> None:
    assert KEK.value not in KEK.id
    assert "kkkk" not in repr(KEK)
    assert base64.b64encode(KEK.value).decode() not in repr(KEK)
