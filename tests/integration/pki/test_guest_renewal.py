"""Renewal has two phases: what is lost or killed between them leaves the old identity in force."""

from __future__ import annotations

import datetime as dt
import ipaddress

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pki.issuer import inventory
from pki.models import Denial
from pki.requests import new_key
from pki.store import denials
from tests.fakes.certificates import TestAuthority
from tests.integration.pki.conftest import TENANT, Desk
from trove_grpc.errors import (
    ConflictError,
    InvalidRequestError,
    OverloadedError,
    UnauthenticatedError,
)
from trove_grpc.gen.common.v1 import trust_pb2

HOUR = dt.timedelta(hours=1)


def test_renewed_certificate_is_pending_and_the_old_one_stays_in_force(desk: Desk) -> None:
    _, first = desk.enrolled()
    second = desk.renew(first)
    assert (desk.state(first), desk.state(second)) == ("CURRENT", "PENDING")
    assert desk.denied_serials() == {}


def test_confirmed_certificate_ends_the_old_one_after_the_grace(desk: Desk) -> None:
    _, first = desk.enrolled()
    second = desk.renew(first)
    desk.confirm(second)
    assert (desk.state(first), desk.state(second)) == ("SUPERSEDED", "CURRENT")
    assert desk.denied_serials() == {first.serial: desk.now + desk.config.superseded_grace}


def test_confirming_twice_changes_nothing(desk: Desk) -> None:
    _, first = desk.enrolled()
    second = desk.renew(first)
    desk.confirm(second)
    before = desk.denied_serials()
    desk.now += dt.timedelta(minutes=1)
    desk.confirm(second)
    assert desk.denied_serials() == before


def test_lost_renewal_reply_gives_the_same_certificate_to_the_same_key(desk: Desk) -> None:
    _, first = desk.enrolled()
    key = new_key()
    assert desk.renew(first, key).chain_pem == desk.renew(first, key).chain_pem
    assert desk.count_audited("renew-guest") == 1  # a guest may ask all day


def test_certificate_that_was_denied_does_not_renew_when_its_denial_is_forgotten(
    desk: Desk,
) -> None:
    _, first = desk.enrolled()
    desk.store.run_now(
        lambda s: inventory.create_denial(
            s, denials.SERIAL, first.serial, "stolen", actor="test", now=desk.now
        )
    )
    desk.store.run_now(lambda s: s.execute(sa.delete(Denial)))
    with pytest.raises(UnauthenticatedError) as caught:
        desk.renew(first)
    assert caught.value.reason == "CERTIFICATE_DENIED"


def test_reply_lost_together_with_its_key_is_replaced_and_denied(desk: Desk) -> None:
    _, first = desk.enrolled()
    lost, second = desk.renew(first), desk.renew(first)
    assert desk.state(lost) == "SUPERSEDED"
    assert desk.denied_serials() == {lost.serial: desk.now}
    desk.confirm(second)
    assert desk.state(second) == "CURRENT"


def test_pending_certificate_that_renews_is_promoted_first(desk: Desk) -> None:
    _, first = desk.enrolled()
    second = desk.renew(first)
    third = desk.renew(second)
    assert [desk.state(each) for each in (first, second, third)] == [
        "SUPERSEDED",
        "CURRENT",
        "PENDING",
    ]


def test_superseded_certificate_may_neither_renew_nor_confirm(desk: Desk) -> None:
    _, first = desk.enrolled()
    desk.confirm(desk.renew(first))
    for attempt in (desk.renew, desk.confirm, desk.engine):
        with pytest.raises(ConflictError) as refused:
            attempt(first)
        assert refused.value.reason == "STALE_SERIAL"


def test_key_is_never_certified_twice_for_one_guest(desk: Desk) -> None:
    instance_id = desk.register()
    key = new_key()
    first = desk.enrol(desk.mint(instance_id), instance_id, key)
    with pytest.raises(InvalidRequestError) as refused:
        desk.renew(first, key)
    assert refused.value.reason == "CSR_KEY_REUSED"


def test_key_of_another_guest_is_refused(desk: Desk) -> None:
    key = new_key()
    _, mine = desk.enrolled()
    _, other = desk.enrolled()
    desk.renew(other, key)
    with pytest.raises(InvalidRequestError) as refused:
        desk.renew(mine, key)
    assert refused.value.reason == "CSR_KEY_REUSED"


def test_expired_certificate_may_not_renew(desk: Desk) -> None:
    _, first = desk.enrolled()
    desk.now = first.expire_time
    with pytest.raises(UnauthenticatedError) as refused:
        desk.renew(first)
    assert refused.value.reason == "CERTIFICATE_EXPIRED"


def test_guest_of_a_retired_instance_may_not_renew(desk: Desk) -> None:
    instance_id, first = desk.enrolled()
    desk.retire(instance_id)
    with pytest.raises(ConflictError) as refused:
        desk.renew(first)
    assert refused.value.reason == "INSTANCE_RETIRED"
    assert desk.state(first) == "DENIED"


def test_certificate_that_was_not_issued_here_is_refused(
    desk: Desk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    instance_id, _first = desk.enrolled()
    foreign = TestAuthority().identity_for_guest(
        TENANT, instance_id, tmp_path_factory.mktemp("foreign")
    )
    with pytest.raises(UnauthenticatedError):
        desk.store.run_now(lambda s: desk.guests.confirm(s, foreign.load().chain_pem, desk.now))


def test_forged_certificate_with_a_known_serial_is_refused(desk: Desk) -> None:
    """Even one that our own authority signed: what is compared is every byte, not the serial."""
    _, first = desk.enrolled()
    real = x509.load_pem_x509_certificate(first.chain_pem)
    key = new_key()
    builder = x509.CertificateBuilder(
        issuer_name=real.issuer,
        subject_name=real.subject,
        public_key=key.public_key(),
        serial_number=real.serial_number,
        not_valid_before=real.not_valid_before_utc,
        not_valid_after=real.not_valid_after_utc,
        extensions=list(real.extensions),
    )
    kind = trust_pb2.AUTHORITY_KIND_GUEST
    signer = desk.store.run_now(lambda s: desk.signers.signer(s, kind, desk.now))
    forged = signer.sign(builder).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(UnauthenticatedError) as refused:
        desk.store.run_now(lambda s: desk.guests.confirm(s, forged, desk.now))
    assert refused.value.reason == "UNKNOWN_CERTIFICATE"


def test_renewals_are_limited_by_the_hour(desk: Desk) -> None:
    _, present = desk.enrolled()
    for _ in range(desk.config.certificates_per_hour - 1):
        present = desk.renew(present)
    with pytest.raises(OverloadedError):
        desk.renew(present)
    desk.now += HOUR
    desk.renew(present)


def test_engine_certificate_names_what_is_registered(desk: Desk) -> None:
    instance_id, guest = desk.enrolled()
    certificate = x509.load_pem_x509_certificate(desk.engine(guest).chain_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"{instance_id}.db.local.trove"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.2")]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == []


def test_engine_certificate_is_the_same_for_the_same_key(desk: Desk) -> None:
    _, guest = desk.enrolled()
    key = new_key()
    assert desk.engine(guest, key).serial == desk.engine(guest, key).serial


def test_engine_certificate_for_a_guests_own_key_is_refused(desk: Desk) -> None:
    instance_id = desk.register()
    key = new_key()
    guest = desk.enrol(desk.mint(instance_id), instance_id, key)
    with pytest.raises(InvalidRequestError):
        desk.engine(guest, key)
