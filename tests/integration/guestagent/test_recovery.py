"""An agent whose certificate expired while it was off comes back by itself, over real TLS."""

from __future__ import annotations

import datetime as dt
import logging

from cryptography import x509

from tests.fakes.guest_gateway import FakeGateway, eventually, public_key, serial_of
from trove_grpc import errors

SHORT = dt.timedelta(seconds=2)
HOUR = dt.timedelta(hours=1)


def expires_in(path) -> float:
    leaf = x509.load_pem_x509_certificate((path / "chain.pem").read_bytes())
    return (leaf.not_valid_after_utc - dt.datetime.now(dt.UTC)).total_seconds()


async def fall_asleep(machine, gateway: FakeGateway):
    """Enrol, connect, switch off, and wait until the certificate has expired; its directory."""
    machine.give_token()
    gateway.guest_lifetime = SHORT
    async with machine.agent():
        await gateway.connected()
        await eventually(lambda: not (machine.root / "agent/token").exists())
    gateway.guest_lifetime = HOUR
    gateway.renewals.clear()
    identity = machine.root / "agent/identity"
    await eventually(lambda: expires_in(identity / "current") < 0)
    return identity


async def test_agent_recovers_from_an_expired_certificate(machine, gateway: FakeGateway):
    identity = await fall_asleep(machine, gateway)
    expired = serial_of(identity / "current")
    before = len(gateway.sessions)
    async with machine.agent():
        session = await gateway.connected(more_than=before)
        await eventually(lambda: serial_of(identity / "current") == session.serial)
    assert session.serial != expired
    assert gateway.confirmed[-1] == session.serial
    assert len(gateway.recoveries) == 1
    assert len(gateway.enrolments) == 1
    assert serial_of(identity / "previous") == expired
    assert not (identity / "renewal.pem").exists()


async def test_agent_process_recovers_too(machine, gateway: FakeGateway):
    await fall_asleep(machine, gateway)
    before = len(gateway.sessions)
    with machine.agent_process():
        await gateway.connected(more_than=before)
    assert len(gateway.recoveries) == 1


async def test_lost_recovery_reply_is_asked_for_again_with_the_same_key_and_another_nonce(
    machine, gateway: FakeGateway
):
    await fall_asleep(machine, gateway)
    gateway.lose["recover"] = 2
    before = len(gateway.sessions)
    async with machine.agent():
        await gateway.connected(more_than=before)
    assert len(gateway.recoveries) == 3
    assert len({public_key(request.csr_der) for request in gateway.recoveries}) == 1
    assert len({request.nonce for request in gateway.recoveries}) == 3


async def test_refused_agent_says_why_keeps_everything_and_goes_on_trying(
    machine, gateway: FakeGateway, caplog
):
    identity = await fall_asleep(machine, gateway)
    expired = serial_of(identity / "current")
    gateway.recovery_refusal = errors.ConflictError("30 days are over", reason="RECOVERY_TOO_LATE")
    before = len(gateway.sessions)
    async with machine.agent():
        await eventually(lambda: len(gateway.recoveries) > 2)
        assert serial_of(identity / "current") == expired
        assert "RECOVERY_TOO_LATE: 30 days are over" in caplog.text
        gateway.recovery_refusal = None
        await gateway.connected(more_than=before)


async def test_refused_agent_takes_a_new_token(machine, gateway: FakeGateway):
    await fall_asleep(machine, gateway)
    gateway.recovery_refusal = errors.ConflictError("30 days are over", reason="RECOVERY_TOO_LATE")
    before = len(gateway.sessions)
    async with machine.agent(reconnect_backoff=HOUR, reconnect_backoff_limit=HOUR):
        await eventually(lambda: gateway.recoveries)
        machine.give_token()
        await gateway.connected(more_than=before)
    assert len(gateway.enrolments) == 2


async def test_spent_key_is_replaced(machine, gateway: FakeGateway):
    identity = await fall_asleep(machine, gateway)
    gateway.recovery_refusal = errors.InvalidRequestError("again", reason="CSR_KEY_REUSED")
    async with machine.agent():
        await eventually(lambda: len(gateway.recoveries) > 1)
        gateway.recovery_refusal = None
        await eventually(lambda: expires_in(identity / "current") > 0)
    keys = [public_key(request.csr_der) for request in gateway.recoveries]
    assert len(set(keys)) == len(keys)


async def test_certificate_that_expired_by_our_clock_alone_is_not_recovered_from(
    machine, gateway: FakeGateway, caplog
):
    await fall_asleep(machine, gateway)
    gateway.clock_offset = -dt.timedelta(hours=5)
    before = len(gateway.sessions)
    async with machine.agent():
        with caplog.at_level(logging.WARNING):
            await eventually(lambda: "the certificate has not expired" in caplog.text)
        assert gateway.recoveries == []
        message = "clock_skew: this guest's clock is 5 h 0 min ahead of the control plane's"
        await eventually(lambda: message in caplog.text)
    gateway.clock_offset = dt.timedelta()
    async with machine.agent():
        await gateway.connected(more_than=before)


async def test_staged_certificate_is_recovered_from_first(machine, gateway: FakeGateway):
    machine.give_token()
    gateway.guest_lifetime = dt.timedelta(seconds=4)
    gateway.lose["confirm"] = 1000
    async with machine.agent():
        await eventually(lambda: gateway.confirmed, within=30)
    gateway.lose.clear()
    identity = machine.root / "agent/identity"
    current, staged = serial_of(identity / "current"), serial_of(identity / "next")
    await eventually(lambda: expires_in(identity / "next") < 0)
    gateway.guest_lifetime = HOUR
    gateway.refused_serials.add(current)  # the issuer heard the confirmation
    before = len(gateway.sessions)
    async with machine.agent():
        session = await gateway.connected(more_than=before)
        await eventually(lambda: serial_of(identity / "current") == session.serial)
    assert serial_of(identity / "previous") == staged
    assert len(gateway.recoveries) == 1
