"""Recovery: an expired guest comes back with its old key, and nobody else does."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.orm import Session

from pki import proof
from pki.issuer import inventory, quarantine, recovery
from pki.issuer.recovery import Recovery
from pki.models import AuditRecord, Authority, Certificate
from pki.requests import csr_der, key_pem, new_key
from pki.store import denials, subjects
from tests.fakes.certificates import TestAuthority
from tests.integration.pki.conftest import TENANT, Desk
from tests.integration.pki.rotation_desk import Fleet
from trove_grpc.errors import TroveError
from trove_grpc.gen.common.v1 import trust_pb2

DAY = dt.timedelta(days=1)
NONCE = b"a number that was redeemed before"


class Sleeper:
    """A guest whose first certificate has expired."""

    def __init__(self, desk: Desk, *, asleep: dt.timedelta = 4 * DAY) -> None:
        self.desk = desk
        self.instance_id = desk.register()
        self.key = new_key()
        enrolled = desk.enrol(desk.mint(self.instance_id), self.instance_id, self.key)
        assert isinstance(enrolled, Certificate)
        self.certificate = enrolled
        self.next_key = new_key()
        desk.now += asleep

    def request(self, **changes: Any) -> recovery.Request:
        csr = csr_der(changes.pop("next_key", self.next_key))
        key: ec.EllipticCurvePrivateKey = changes.pop("key", self.key)
        instance_id = changes.get("instance_id", self.instance_id)
        request = recovery.Request(
            instance_id=self.instance_id,
            expired_chain_pem=self.certificate.chain_pem,
            nonce=NONCE,
            csr_der=csr,
            signature=proof.sign(key_pem(key), NONCE, csr, instance_id),
            public_key=self.next_key.public_key(),
        )
        return dataclasses.replace(request, **changes)

    def recover(self, request: recovery.Request | None = None) -> Certificate:
        rules = Recovery(self.desk.guests, self.desk.config)
        return self.desk.store.run_now(
            lambda s: rules.recover(
                s, request or self.request(), actor="127.0.0.1", now=self.desk.now
            )
        )

    def refusal(self, request: recovery.Request | None = None) -> str:
        with pytest.raises(TroveError) as caught:
            self.recover(request)
        return caught.value.reason


def test_expired_guest_gets_its_next_certificate(desk: Desk) -> None:
    sleeper = Sleeper(desk)
    recovered = sleeper.recover()
    assert recovered.state == "PENDING"
    assert recovered.replaces == sleeper.certificate.serial
    assert recovered.expire_time == desk.now + desk.config.guest_lifetime
    assert recovered.name == sleeper.certificate.name
    with desk.store.engine.connect() as connection:
        last = connection.execute(
            sa.select(AuditRecord.action).order_by(AuditRecord.sequence.desc()).limit(1)
        ).scalar_one()
    assert last == "recover-guest"


def test_recovered_certificate_ends_the_expired_one_when_it_is_used(desk: Desk) -> None:
    sleeper = Sleeper(desk)
    recovered = sleeper.recover()
    desk.confirm(recovered)
    assert desk.state(sleeper.certificate) == "SUPERSEDED"
    assert sleeper.refusal(sleeper.request(next_key=new_key())) == "STALE_SERIAL"


def test_forged_certificate_with_a_known_serial_does_not_recover(desk: Desk) -> None:
    """Even one that our own authority signed: what is compared is every byte, not the serial."""
    sleeper, thief = Sleeper(desk), new_key()
    real = x509.load_pem_x509_certificate(sleeper.certificate.chain_pem)
    builder = x509.CertificateBuilder(
        issuer_name=real.issuer,
        subject_name=real.subject,
        public_key=thief.public_key(),
        serial_number=real.serial_number,
        not_valid_before=real.not_valid_before_utc,
        not_valid_after=real.not_valid_after_utc,
        extensions=list(real.extensions),
    )
    kind = trust_pb2.AUTHORITY_KIND_GUEST
    signer = desk.store.run_now(lambda s: desk.signers.signer(s, kind, desk.now))
    forged = signer.sign(builder).public_bytes(serialization.Encoding.PEM)
    request = sleeper.request(key=thief, expired_chain_pem=forged)
    assert sleeper.refusal(request) == "UNKNOWN_CERTIFICATE"


def test_lost_reply_gives_the_same_certificate_to_the_same_key(desk: Desk) -> None:
    sleeper = Sleeper(desk)
    assert sleeper.recover().chain_pem == sleeper.recover().chain_pem
    assert desk.count_audited("recover-guest") == 1  # a guest may ask all day


def test_guest_whose_renewal_reply_was_lost_gets_that_certificate_with_that_key(
    desk: Desk,
) -> None:
    sleeper = Sleeper(desk, asleep=dt.timedelta(hours=71))
    renewed = desk.renew(sleeper.certificate, sleeper.next_key)
    desk.now += dt.timedelta(hours=2)
    assert sleeper.recover().serial == renewed.serial


def test_guest_that_slept_over_its_renewal_comes_back_with_the_older_certificate(
    desk: Desk,
) -> None:
    sleeper = Sleeper(desk, asleep=dt.timedelta(hours=71))
    lost = desk.renew(sleeper.certificate)
    desk.now += 10 * DAY
    assert sleeper.recover().replaces == sleeper.certificate.serial
    assert desk.state(lost) == "SUPERSEDED"


def test_key_of_a_certificate_that_expired_unused_is_refused_so_that_a_new_one_is_made(
    desk: Desk,
) -> None:
    sleeper = Sleeper(desk)
    sleeper.recover()
    desk.now += 4 * DAY
    assert sleeper.refusal() == "CSR_KEY_REUSED"
    sleeper.next_key = new_key()
    sleeper.recover()


def test_staged_certificate_that_was_never_used_is_as_good_as_the_current_one(
    desk: Desk,
) -> None:
    sleeper = Sleeper(desk, asleep=dt.timedelta(hours=71))
    staged_key = new_key()
    staged = desk.renew(sleeper.certificate, staged_key)
    desk.now += 10 * DAY
    request = sleeper.request(key=staged_key, expired_chain_pem=staged.chain_pem)
    assert sleeper.recover(request).replaces == staged.serial


def test_last_moment_of_the_grace_is_inside(desk: Desk) -> None:
    sleeper = Sleeper(desk)
    desk.now = sleeper.certificate.expire_time + desk.config.recovery_grace
    sleeper.recover()


def test_guest_beyond_the_grace_needs_a_token(desk: Desk) -> None:
    sleeper = Sleeper(desk)
    desk.now = sleeper.certificate.expire_time + desk.config.recovery_grace
    desk.now += dt.timedelta(seconds=1)
    assert sleeper.refusal() == "RECOVERY_TOO_LATE"


def test_certificate_that_is_still_good_is_not_recovered_from(desk: Desk) -> None:
    assert Sleeper(desk, asleep=dt.timedelta(hours=1)).refusal() == "NOT_EXPIRED"


def test_signature_of_another_key_is_refused(desk: Desk) -> None:
    sleeper = Sleeper(desk)
    assert sleeper.refusal(sleeper.request(key=new_key())) == "BAD_PROOF"


def test_signature_over_something_else_is_refused(desk: Desk) -> None:
    sleeper = Sleeper(desk)
    honest = sleeper.request()
    for changed in (
        {"nonce": b"another number, of another length"},
        {"csr_der": csr_der(new_key())},
        {"signature": b"no signature at all"},
        {"signature": b""},
    ):
        assert sleeper.refusal(dataclasses.replace(honest, **changed)) == "BAD_PROOF"


def test_certificate_of_another_instance_is_refused(desk: Desk) -> None:
    sleeper, other = Sleeper(desk), str(uuid.uuid4())
    assert sleeper.refusal(sleeper.request(instance_id=other)) == "BAD_IDENTITY"


def test_certificate_of_another_authority_of_the_same_names_is_refused(desk: Desk) -> None:
    sleeper = Sleeper(desk)
    foreign = TestAuthority().guest_chain(TENANT, sleeper.instance_id, csr_der(sleeper.key))
    assert sleeper.refusal(sleeper.request(expired_chain_pem=foreign)) == "BAD_PROFILE"


@pytest.mark.parametrize("chain", [b"", b"-----BEGIN CERTIFICATE-----\n", b"\x00" * 100])
def test_what_is_no_certificate_is_refused(desk: Desk, chain: bytes) -> None:
    sleeper = Sleeper(desk)
    assert sleeper.refusal(sleeper.request(expired_chain_pem=chain)) == "BAD_PROFILE"


def test_retired_instance_does_not_come_back(desk: Desk) -> None:
    sleeper = Sleeper(desk)
    desk.retire(sleeper.instance_id)
    assert sleeper.refusal() == "INSTANCE_RETIRED"


def test_superseded_certificate_is_stale(desk: Desk) -> None:
    sleeper = Sleeper(desk, asleep=dt.timedelta(hours=71))
    desk.confirm(desk.renew(sleeper.certificate))
    desk.now += 10 * DAY
    assert sleeper.refusal() == "STALE_SERIAL"


@pytest.mark.parametrize("kind", ["SERIAL", "KEY", "INSTANCE", "TENANT", "GENERATION"])
def test_denied_guest_does_not_come_back(desk: Desk, kind: str) -> None:
    sleeper = Sleeper(desk)
    value = {
        "SERIAL": sleeper.certificate.serial,
        "KEY": sleeper.certificate.key_hash,
        "INSTANCE": sleeper.instance_id,
        "TENANT": TENANT,
        "GENERATION": "guest/1",
    }[kind]
    desk.store.run_now(
        lambda s: inventory.create_denial(s, kind, value, "stolen", actor="test", now=desk.now)
    )
    assert sleeper.refusal() == "CERTIFICATE_DENIED"


def test_denied_serial_stays_denied_when_its_denial_is_forgotten(desk: Desk) -> None:
    sleeper = Sleeper(desk)
    serial = sleeper.certificate.serial
    desk.store.run_now(
        lambda s: inventory.create_denial(
            s, "SERIAL", serial, "stolen", actor="test", now=desk.now
        )
    )
    desk.store.run_now(
        lambda s: s.execute(sa.delete(denials.Denial).where(denials.Denial.value == serial))
    )
    assert sleeper.refusal() == "CERTIFICATE_DENIED"


def set_state_of_guest_authority(desk: Desk, state: str) -> None:
    desk.store.run_now(
        lambda s: s.execute(
            sa.update(Authority).where(Authority.kind == "guest").values(state=state)
        )
    )


def test_compromised_authority_vouches_for_nobody(desk: Desk) -> None:
    sleeper = Sleeper(desk)
    set_state_of_guest_authority(desk, "TAINTED")
    assert sleeper.refusal() == "AUTHORITY_TAINTED"


@pytest.mark.parametrize("state", ["DRAINING", "RETIRED", "DESTROYED"])
def test_guest_that_was_off_for_a_whole_rotation_comes_back(desk: Desk, state: str) -> None:
    sleeper, fleet = Sleeper(desk), Fleet(desk)
    rotation = fleet.start("INTERMEDIATE", "guest", is_automatic=False)
    fleet.run_until(rotation, "READY")
    fleet.advance(rotation, "SWITCHED")
    fleet.run_until(rotation, "DRAINED")
    if state != "DRAINING":
        fleet.advance(rotation, "RETIRED")
        fleet.run_until(rotation, "RETIRED")
    if state == "DESTROYED":
        desk.now += desk.config.key_hold
        fleet.tick(fleet.rotator())
    assert fleet.states("guest") == {1: state, 2: "ACTIVE"}
    assert sleeper.recover().replaces == sleeper.certificate.serial


def test_recoveries_of_one_instance_are_counted_with_its_renewals(desk: Desk) -> None:
    sleeper = Sleeper(desk)
    for _ in range(desk.config.certificates_per_hour):
        sleeper.next_key = new_key()
        sleeper.recover()
    sleeper.next_key = new_key()
    assert sleeper.refusal() == "TOO_MANY_CERTIFICATES"


def test_guest_that_an_operator_lets_in_recovers_after_the_grace(desk: Desk) -> None:
    sleeper = Sleeper(desk, asleep=desk.config.recovery_grace + 10 * DAY)
    assert sleeper.refusal() == "RECOVERY_TOO_LATE"

    def let_in(session: Session) -> None:
        subjects.lock_active(session, sleeper.instance_id).recovery_until_time = desk.now + DAY

    desk.store.run_now(let_in)
    assert sleeper.recover().replaces == sleeper.certificate.serial
    desk.now += 2 * DAY
    assert sleeper.refusal() == "RECOVERY_TOO_LATE"


def test_guest_in_quarantine_does_not_recover(desk: Desk) -> None:
    sleeper = Sleeper(desk)
    desk.store.run_now(
        lambda s: quarantine.begin(
            s, sleeper.instance_id, quarantine.CLONE, actor="test", now=desk.now
        )
    )
    assert sleeper.refusal() == "QUARANTINED"
