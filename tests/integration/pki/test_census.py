"""The fleet as metrics show it: counted from the records, in the words of `agents list`."""

from __future__ import annotations

import datetime as dt

from prometheus_client import REGISTRY
from sqlalchemy.orm import Session

from pki.issuer import quarantine
from pki.issuer.census import Census
from pki.issuer.services import Services
from pki.models import Certificate, Service
from pki.requests import new_key
from pki.store import agents, subjects
from tests.integration.pki.conftest import NOW, Desk
from trove_grpc.identity import Role

HOUR = dt.timedelta(hours=1)


async def take(desk: Desk) -> None:
    await Census(desk.store, desk.config, now=lambda: desk.now).take()


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def states() -> dict[str, float | None]:
    shown = {state: value("trove_pki_agents", state=state) for state in agents.State}
    return {state: count for state, count in shown.items() if count}


async def test_agents_are_counted_by_the_state_that_operators_see(desk: Desk) -> None:
    desk.register()
    gone = desk.register()
    desk.retire(gone)
    for _ in range(2):
        instance_id = desk.register()
        desk.enrol(desk.mint(instance_id), instance_id)
    desk.store.run_now(
        lambda s: quarantine.begin(s, instance_id, quarantine.CLONE, actor="test", now=desk.now)
    )
    await take(desk)
    assert states() == {"NEVER": 1, "CURRENT": 1, "QUARANTINED": 1}
    desk.now += 50 * HOUR  # of 72
    await take(desk)
    assert states() == {"NEVER": 1, "OVERDUE": 1, "QUARANTINED": 1}
    desk.now += 30 * HOUR
    await take(desk)
    assert states() == {"NEVER": 1, "EXPIRED": 1, "QUARANTINED": 1}


async def test_agents_behind_and_agents_with_wrong_clocks_are_counted_while_connected(
    desk: Desk,
) -> None:
    instance_id = desk.register()

    def seen(session: Session, *, is_online: bool) -> None:
        subject = subjects.find(session, instance_id)
        assert subject is not None
        subject.is_online, subject.held_bundle_version = is_online, 0
        subject.clock_skew_ms = -301_000

    desk.store.run_now(lambda s: seen(s, is_online=True))
    await take(desk)
    assert value("trove_pki_bundle_lag_agents") == 1
    assert value("trove_pki_agents_skewed") == 1
    desk.store.run_now(lambda s: seen(s, is_online=False))
    await take(desk)
    assert value("trove_pki_bundle_lag_agents") == 0
    assert value("trove_pki_agents_skewed") == 0


async def test_a_service_past_the_middle_of_its_certificate_is_overdue(desk: Desk) -> None:
    services = Services(desk.signers, desk.config)

    def enrol(session: Session) -> None:
        certificate = services.enrol(
            session,
            role=Role.API,
            host="h",
            public_key=new_key().public_key(),
            actor="test",
            now=desk.now,
        )
        row = Service(
            name=certificate.name,
            serial=certificate.serial,
            held_bundle_version=1,
            last_seen_time=desk.now,
        )
        session.add(row)

    desk.store.run_now(enrol)
    for age, overdue in ((80, 0), (90, 1), (169, 0)):  # hours, of 168; at its end it is no use
        desk.now = NOW + age * HOUR
        await take(desk)
        assert value("trove_pki_services_overdue") == overdue, age


async def test_the_first_end_to_come_and_the_open_tokens_are_shown(desk: Desk) -> None:
    instance_id = desk.register()
    certificate = desk.enrol(desk.mint(instance_id), instance_id)
    assert isinstance(certificate, Certificate)
    desk.mint(desk.register())
    await take(desk)
    assert value("trove_pki_tokens_open") == 1
    ends = "trove_pki_leaf_soonest_expiry_timestamp_seconds"
    assert value(ends, authority="guest") is None  # it may never have arrived
    desk.store.run_now(lambda s: desk.guests.confirm(s, certificate.chain_pem, desk.now))
    await take(desk)
    assert value(ends, authority="guest") == certificate.expire_time.timestamp()


async def test_a_token_used_again_with_another_key_is_counted(desk: Desk) -> None:
    before = value("trove_pki_token_reuse_total")
    assert before is not None
    instance_id = desk.register()
    token = desk.mint(instance_id)
    desk.enrol(token, instance_id)
    desk.enrol(token, instance_id)
    assert value("trove_pki_token_reuse_total") == before + 1
