"""Barbican keeps what every custody promises (tests/fakes/custody_contract.py)."""

from __future__ import annotations

import pytest

from pki.custody import Custody, CustodyError, barbican, envelope
from pki.requests import new_key
from tests.fakes.custody_contract import CustodyContract
from tests.openstack.conftest import Place
from trove_grpc.errors import PermissionDeniedError


class TestBarbican(CustodyContract):
    @pytest.fixture
    def custody(self, place: Place) -> Custody:
        return place.custody()


def test_more_keys_than_barbican_lists_at_once_are_all_found(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own default is 10; pages of 5 show that the next one is asked for."""
    custody = place.custody()
    key = new_key()
    for generation in range(1, 13):
        custody.store(f"guest-g{generation}", key)
    monkeypatch.setattr(barbican, "_PAGE", 5)
    assert len(place.custody().names()) == 12


def test_keys_of_another_trust_domain_are_not_ours(place: Place) -> None:
    place.custody().store("guest-g1", new_key())
    other = barbican.BarbicanCustody(place.settings, f"x{place.trust_domain}")
    assert other.names() == []
    assert not other.exists("guest-g1")


def test_other_member_of_the_project_cannot_read_a_key(place: Place) -> None:
    place.custody().store("guest-g1", new_key())
    colleague = place.custody(credential_file=place.credential("colleague", "member"))
    with pytest.raises(PermissionDeniedError) as refused:
        colleague.load("guest-g1")
    assert refused.value.reason == "CUSTODY_FORBIDDEN"


def test_second_credential_of_the_same_user_reads_the_key(place: Place) -> None:
    """How a credential is replaced: the access list names the user."""
    key = new_key()
    place.custody().store("guest-g1", key)
    place.credential("issuer", "member")
    assert place.custody().load("guest-g1").public_key() == key.public_key()


def test_same_key_stored_twice_by_two_processes_is_one_key(place: Place) -> None:
    key = new_key()
    place.custody().store("guest-g1", key)
    path = place.path("guest-g1")
    place.put("guest-g1", envelope.seal(key, path, envelope.read_kek(place.settings.kek_file)))
    assert place.custody().load("guest-g1").public_key() == key.public_key()


def test_lost_kek_is_not_made_anew_while_keys_need_it(place: Place) -> None:
    place.custody().store("guest-g1", new_key())
    place.settings.kek_file.unlink()
    with pytest.raises(CustodyError, match="restore that file"):
        place.custody().prepare()
    assert not place.settings.kek_file.exists()


def test_prepare_makes_a_private_kek_once(place: Place) -> None:
    kek = place.settings.kek_file
    before = kek.read_bytes()
    place.custody().prepare()
    assert kek.read_bytes() == before
    assert kek.stat().st_mode & 0o777 == 0o600
