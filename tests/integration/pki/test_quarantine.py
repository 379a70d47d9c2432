"""Quarantine: what begins it, what it holds back, what ends it, and who cannot begin it."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid

import pytest

from pki.issuer import quarantine
from pki.issuer.guests import Refusal
from pki.models import Certificate, Subject
from pki.requests import csr_der, new_key
from pki.store import Store, audit
from tests.integration.pki.conftest import TENANT, Desk, RunningIssuer
from trove_grpc.client import call
from trove_grpc.errors import ConflictError, UnauthenticatedError
from trove_grpc.gen.guest.v1 import enrolment_service_pb2 as guest_pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.identity import Role


def reason_of(desk: Desk, instance_id: str) -> str:
    row = desk.store.run_now(lambda s: s.get(Subject, instance_id))
    assert row is not None
    return row.quarantine_reason if row.quarantine_time is not None else ""


def quarantine_now(desk: Desk, instance_id: str) -> None:
    desk.store.run_now(
        lambda s: quarantine.begin(s, instance_id, quarantine.CLONE, actor="test", now=desk.now)
    )


def refused(call_, *arguments) -> str:
    with pytest.raises(ConflictError) as caught:
        call_(*arguments)
    return caught.value.reason


def test_token_shown_with_another_key_quarantines_its_instance(desk: Desk) -> None:
    instance_id = desk.register()
    token = desk.mint(instance_id)
    assert isinstance(desk.enrol(token, instance_id), Certificate)
    assert isinstance(desk.enrol(token, instance_id), Refusal)
    assert reason_of(desk, instance_id) == quarantine.TOKEN


def test_used_token_shown_with_its_own_key_is_no_alarm(desk: Desk) -> None:
    instance_id, key = desk.register(), new_key()
    token = desk.mint(instance_id)
    for _ in range(2):
        assert isinstance(desk.enrol(token, instance_id, key), Certificate)
    assert not reason_of(desk, instance_id)


def test_nobody_without_its_token_secret_can_quarantine_a_neighbour(desk: Desk) -> None:
    victim, own = desk.register(), desk.register()
    victims, mine = desk.mint(victim), desk.mint(own)
    assert isinstance(desk.enrol(victims, victim), Certificate)
    assert isinstance(desk.enrol(mine, own), Certificate)
    guessed = type(victims)(victims.lookup, bytes(32))  # its public part is known
    for shown in (guessed, mine, None):
        assert isinstance(desk.enrol(shown, victim), Refusal)
    assert not reason_of(desk, victim)


def test_quarantined_instance_gets_nothing_and_hears_the_command_that_helps(desk: Desk) -> None:
    instance_id, present = desk.enrolled()
    desk.confirm(present)
    pending = desk.renew(present)
    quarantine_now(desk, instance_id)
    for refusal in (
        refused(desk.renew, present),
        refused(desk.engine, present),
        refused(desk.confirm, pending),
    ):
        assert refusal == "QUARANTINED"
    with pytest.raises(ConflictError, match=rf"resolve-clone {instance_id}"):
        desk.renew(present)
    # What is open stays: no certificate of it is refused by anybody.
    assert desk.denied_serials() == {}
    assert (desk.state(present), desk.state(pending)) == ("CURRENT", "PENDING")


def test_new_token_ends_the_quarantine_once_it_is_used(desk: Desk) -> None:
    instance_id, present = desk.enrolled()
    quarantine_now(desk, instance_id)
    token = desk.mint(instance_id)
    assert reason_of(desk, instance_id)
    rebuilt = desk.enrol(token, instance_id)
    assert isinstance(rebuilt, Certificate)
    assert not reason_of(desk, instance_id)
    assert desk.state(present) == "SUPERSEDED"
    desk.renew(rebuilt)


def test_quarantine_is_written_down_once_however_often_its_cause_repeats(desk: Desk) -> None:
    instance_id = desk.register()
    for _ in range(3):
        quarantine_now(desk, instance_id)
    assert desk.store.run_now(lambda s: audit.has(s, "quarantine", instance_id))
    from pki.models import AuditRecord

    rows = desk.store.run_now(lambda s: s.query(AuditRecord).filter_by(action="quarantine").all())
    assert len(rows) == 1


def test_retired_and_unknown_instances_are_not_quarantined(desk: Desk) -> None:
    retired = desk.register()
    desk.retire(retired)
    for instance_id in (retired, str(uuid.uuid4())):
        quarantine_now(desk, instance_id)
    assert not reason_of(desk, retired)


def test_recovery_of_a_quarantined_instance_is_refused(desk: Desk) -> None:
    """The check itself; test_recovery.py builds whole requests."""
    instance_id, _ = desk.enrolled()
    quarantine_now(desk, instance_id)
    row = desk.store.run_now(lambda s: s.get(Subject, instance_id))
    assert row is not None
    assert refused(quarantine.refuse, row) == "QUARANTINED"


async def enrolled(issuer: RunningIssuer) -> tuple[str, bytes]:
    """Instance id and certificate, got through the RPCs."""
    instance_id = str(uuid.uuid4())
    tasks = await issuer.stub(Role.TASKMANAGER)
    subject = pb.RegisterSubjectRequest(instance_id=instance_id, tenant_id=TENANT)
    await call(tasks.RegisterSubject, subject, timeout=10)
    minted = await call(tasks.MintToken, pb.MintTokenRequest(instance_id=instance_id), timeout=10)
    gateway = await issuer.stub(Role.GATEWAY)
    request = guest_pb.EnrolRequest(
        token=minted.token, instance_id=instance_id, csr_der=csr_der(new_key())
    )
    answer = await call(
        gateway.EnrolGuest,
        pb.EnrolGuestRequest(enrolment=request, peer_address="ipv4:192.0.2.1:1"),
        timeout=10,
    )
    return instance_id, answer.enrolment.chain_pem


async def renew(issuer: RunningIssuer, certificate_pem: bytes) -> bytes:
    gateway = await issuer.stub(Role.GATEWAY)
    request = pb.RenewGuestRequest(certificate_pem=certificate_pem, csr_der=csr_der(new_key()))
    renewed: bytes = (await call(gateway.RenewGuest, request, timeout=10)).chain_pem
    return renewed


async def confirm(issuer: RunningIssuer, certificate_pem: bytes) -> None:
    gateway = await issuer.stub(Role.GATEWAY)
    await call(
        gateway.ConfirmGuest, pb.ConfirmGuestRequest(certificate_pem=certificate_pem), timeout=10
    )


async def test_superseded_certificate_that_renews_raises_the_alarm_and_no_more(issuer) -> None:
    """An attacker with an old key of the instance: the honest certificate is not touched."""
    instance_id, old = await enrolled(issuer)
    new = await renew(issuer, old)
    await confirm(issuer, new)
    # A confirmation that was on its way while it was superseded is no alarm.
    with pytest.raises(ConflictError, match="superseded"):
        await confirm(issuer, old)
    await renew(issuer, new)

    with pytest.raises(ConflictError, match="superseded") as caught:
        await renew(issuer, old)
    assert caught.value.reason == "STALE_SERIAL"
    with pytest.raises(ConflictError) as caught:
        await renew(issuer, new)
    assert caught.value.reason == "QUARANTINED"

    store = Store(issuer.config.database_url)
    row = await asyncio.to_thread(store.run_now, lambda s: s.get(Subject, instance_id))
    store.close()
    assert row is not None
    assert row.quarantine_reason == quarantine.STALE


def test_lifted_denial_acts_no_more_and_may_be_written_again(desk: Desk) -> None:
    from pki.issuer import inventory, ledger
    from pki.store import denials

    instance_id, present = desk.enrolled()

    def deny() -> None:
        desk.store.run_now(
            lambda s: inventory.create_denial(
                s, denials.INSTANCE, instance_id, "mistaken", actor="ada", now=desk.now
            )
        )

    deny()
    with pytest.raises(UnauthenticatedError):
        desk.renew(present)
    assert desk.store.run_now(lambda s: denials.lift(s, denials.INSTANCE, instance_id, desk.now))
    assert not desk.store.run_now(
        lambda s: denials.lift(s, denials.INSTANCE, instance_id, desk.now)
    )
    desk.now += dt.timedelta(minutes=1)
    rows = desk.store.run_now(lambda s: denials.after(s, 0, 10))
    assert [row.expire_time is not None for row in rows if row.kind == denials.INSTANCE] == [True]
    desk.store.run_now(
        lambda s: ledger.refuse_denied(s, desk.now, instance_id=instance_id, tenant_id=TENANT)
    )
    deny()
    with pytest.raises(UnauthenticatedError):
        desk.store.run_now(
            lambda s: ledger.refuse_denied(s, desk.now, instance_id=instance_id, tenant_id=TENANT)
        )
