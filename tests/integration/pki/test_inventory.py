"""Subjects, denials in order, services, the diary, the bundle."""

from __future__ import annotations

import datetime as dt
import uuid
from concurrent.futures import ThreadPoolExecutor

import alembic.autogenerate
import alembic.migration
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.issuer import bootstrap, inventory
from pki.models import AuditRecord, Base, Token
from pki.requests import new_key
from pki.store import Store, audit, authorities, denials
from tests.integration.pki.conftest import Desk
from trove_grpc.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    UnauthenticatedError,
    UnavailableError,
)
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import Role, identify


def deny(desk: Desk, kind: str, value: str):
    return desk.store.run_now(
        lambda s: inventory.create_denial(s, kind, value, "told so", actor="test", now=desk.now)
    )


def service_identity(desk: Desk, certificate):
    return identify(certificate.chain_pem, desk.store.run_now(authorities.bundle))


def enrol_service(desk: Desk, host: str = "h"):
    key = new_key()
    return desk.store.run_now(
        lambda s: desk.services.enrol(
            s,
            role=Role.CONDUCTOR,
            host=host,
            public_key=key.public_key(),
            actor="test",
            now=desk.now,
        )
    )


def test_registering_again_keeps_the_epoch_and_updates_the_names(desk: Desk) -> None:
    instance_id = desk.register()
    assert desk.register(instance_id) == instance_id


def test_instance_of_another_tenant_is_not_registered_again(desk: Desk) -> None:
    instance_id = desk.register()
    with pytest.raises(ConflictError) as refused:
        desk.register(instance_id, tenant_id="tenant-2")
    assert refused.value.reason == "OTHER_TENANT"


def test_retired_instance_has_no_open_token(desk: Desk) -> None:
    instance_id = desk.register()
    desk.mint(instance_id)
    desk.retire(instance_id)
    voided = desk.store.run_now(lambda s: s.scalars(sa.select(Token.void_time)).all())
    assert voided == [desk.now]


def test_retired_instance_is_not_registered_again(desk: Desk) -> None:
    instance_id = desk.register()
    desk.retire(instance_id)
    with pytest.raises(ConflictError):
        desk.register(instance_id)
    with pytest.raises(ConflictError):
        desk.mint(instance_id)


def test_retiring_twice_or_an_unknown_instance_is_harmless(desk: Desk) -> None:
    instance_id = desk.register()
    desk.retire(instance_id)
    desk.retire(instance_id)
    desk.retire(str(uuid.uuid4()))
    rows = desk.store.run_now(lambda s: denials.after(s, 0, 10))
    assert [(row.kind, row.value) for row in rows] == [("INSTANCE", instance_id)]


def test_token_for_an_unknown_instance_is_not_minted(desk: Desk) -> None:
    with pytest.raises(NotFoundError):
        desk.mint(str(uuid.uuid4()))


@pytest.mark.parametrize("kind", ["SERIAL", "KEY", "INSTANCE", "TENANT", "GENERATION"])
def test_denied_guest_may_not_renew(desk: Desk, kind: str) -> None:
    instance_id, certificate = desk.enrolled()
    value = {
        "SERIAL": certificate.serial,
        "KEY": certificate.key_hash,
        "INSTANCE": instance_id,
        "TENANT": "tenant-1",
        "GENERATION": "guest/1",
    }[kind]
    deny(desk, kind, value)
    with pytest.raises(UnauthenticatedError) as refused:
        desk.renew(certificate)
    assert refused.value.reason == "CERTIFICATE_DENIED"


@pytest.mark.parametrize("kind", ["SERIAL", "KEY"])
def test_denial_refuses_a_leaf_that_no_record_says_is_ended(desk: Desk, kind: str) -> None:
    """As one that was written before the leaf was recorded here: after a restore, an adoption."""
    _, certificate = desk.enrolled()
    value = {"SERIAL": certificate.serial, "KEY": certificate.key_hash}[kind]
    desk.store.run_now(
        lambda s: denials.write(s, kind=kind, value=value, reason="stolen", now=desk.now)
    )
    with pytest.raises(UnauthenticatedError, match="is denied: stolen"):
        desk.renew(certificate)


def test_denials_are_numbered_without_loss_when_written_at_once(desk: Desk) -> None:
    """A poller reads "after N" all the while: it must end up with every one."""
    values = [f"{number:x}" for number in range(40)]
    seen: list[str] = []
    position = 0
    with ThreadPoolExecutor(5) as threads:
        writing = [threads.submit(deny, desk, "SERIAL", value) for value in values]
        while True:
            done = all(each.done() for each in writing)
            after = position
            page = desk.store.run_now(lambda s, after=after: denials.after(s, after, 100))
            seen += [row.value for row in page]
            position = max([position, *(row.sequence for row in page)])
            if done and not page:
                break
    assert sorted(seen) == sorted(values)


def test_denial_that_begins_earlier_gets_a_new_number(desk: Desk) -> None:
    _, first = desk.enrolled()
    desk.confirm(desk.renew(first))
    before = desk.store.run_now(denials.head)
    row = deny(desk, "SERIAL", first.serial)
    assert row.sequence > before
    assert desk.denied_serials() == {first.serial: desk.now}


def test_same_denial_twice_is_one(desk: Desk) -> None:
    assert deny(desk, "SERIAL", "ab").sequence == deny(desk, "SERIAL", "ab").sequence


def test_pruning_drops_what_expired_and_keeps_the_head(desk: Desk) -> None:
    for _ in range(2):
        instance_id, _certificate = desk.enrolled()
        desk.retire(instance_id)
    head = desk.store.run_now(denials.head)
    later = desk.now + dt.timedelta(days=30)
    desk.store.run_now(lambda s: inventory.prune(s, desk.config, later))
    rows = desk.store.run_now(lambda s: denials.after(s, 0, 10))
    assert [row.sequence for row in rows] == [head]


def test_service_renewal_is_pending_until_used_and_then_ends_the_old_one(desk: Desk) -> None:
    old = enrol_service(desk)
    other = enrol_service(desk, "other")
    key = new_key().public_key()
    new = desk.store.run_now(
        lambda s: desk.services.renew(s, service_identity(desk, old), key, desk.now)
    )
    again = desk.store.run_now(
        lambda s: desk.services.renew(s, service_identity(desk, old), key, desk.now)
    )
    assert new.serial == again.serial
    assert desk.state(old) == "CURRENT"
    desk.store.run_now(
        lambda s: desk.services.authenticate(s, service_identity(desk, new), desk.now)
    )
    assert [desk.state(each) for each in (old, new, other)] == [
        "SUPERSEDED",
        "CURRENT",
        "CURRENT",
    ]
    assert desk.denied_serials() == {old.serial: desk.now + desk.config.superseded_grace}
    with pytest.raises(ConflictError) as refused:
        desk.store.run_now(
            lambda s: desk.services.renew(
                s, service_identity(desk, old), new_key().public_key(), desk.now
            )
        )
    assert refused.value.reason == "STALE_SERIAL"


def test_bundle_names_all_six_authorities_once_each_and_init_again_changes_nothing(
    desk: Desk,
) -> None:
    before = desk.store.run_now(authorities.bundle)
    assert sorted(each.kind for each in before.authorities) == [1, 2, 3, 4, 5, 6]
    created = desk.store.run_now(
        lambda s: bootstrap.initialise(s, desk.custody, desk.config, desk.now)
    )
    assert created == []
    assert desk.store.run_now(authorities.bundle) == before
    states = {each.state for each in before.authorities}
    assert states == {trust_pb2.AUTHORITY_STATE_ACTIVE}


def test_database_of_another_trust_domain_is_refused(desk: Desk) -> None:
    with pytest.raises(ConflictError) as refused:
        desk.store.run_now(lambda s: authorities.ensure_domain(s, "other.trove", desk.now))
    assert refused.value.reason == "OTHER_TRUST_DOMAIN"


def test_audit_chain_holds_and_names_the_first_bad_row(desk: Desk) -> None:
    desk.enrolled()
    assert desk.store.run_now(audit.first_bad_sequence) is None
    desk.store.run_now(
        lambda s: s.execute(
            sa.update(AuditRecord).where(AuditRecord.sequence == 3).values(actor="nobody")
        )
    )
    assert desk.store.run_now(audit.first_bad_sequence) == 3


@pytest.mark.parametrize("where", ["middle", "end"])
def test_removed_audit_row_is_noticed(desk: Desk, where: str) -> None:
    desk.enrolled()
    last = desk.store.run_now(lambda s: s.scalar(sa.select(sa.func.max(AuditRecord.sequence))))
    gone = last if where == "end" else 2
    desk.store.run_now(
        lambda s: s.execute(sa.delete(AuditRecord).where(AuditRecord.sequence == gone))
    )
    assert desk.store.run_now(audit.first_bad_sequence) == gone


def test_foreign_bytes_in_the_audit_are_shown_escaped(desk: Desk) -> None:
    desk.store.run_now(
        lambda s: audit.append(s, now=desk.now, actor="a\x00\nb", action="x", subject="y")
    )
    last = desk.store.run_now(
        lambda s: s.scalars(sa.select(AuditRecord).order_by(AuditRecord.sequence.desc())).first()
    )
    assert last is not None
    assert last.actor == "a\\x00\\nb"


def test_migrations_make_the_schema_of_the_models(desk: Desk) -> None:
    with desk.store.engine.connect() as connection:
        context = alembic.migration.MigrationContext.configure(connection)
        assert alembic.autogenerate.compare_metadata(context, Base.metadata) == []


async def test_store_refuses_when_too_many_wait(desk: Desk) -> None:
    full = Store(desk.config.database_url, max_waiting=0)
    with pytest.raises(OverloadedError):
        await full.run(denials.head)
    full.close()


def test_a_value_that_the_database_cannot_hold_is_the_callers_mistake(desk: Desk) -> None:
    def work(_session: Session) -> None:
        raise sa.exc.DataError("INSERT", None, ValueError("too long: hunter2"))

    with pytest.raises(InvalidRequestError) as caught:
        desk.store.run_now(work)
    assert "hunter2" not in caught.value.message


def test_a_database_that_is_not_ours_is_told(desk: Desk) -> None:
    with pytest.raises(UnavailableError) as caught:
        desk.store.run_now(lambda session: session.execute(sa.text("SELECT 1 FROM nowhere")))
    assert "nowhere" in caught.value.message
    # SQLite tells a missing table and a lost file in the same way.
    is_sqlite = desk.store.engine.dialect.name == "sqlite"
    assert caught.value.reason == ("DATABASE_UNAVAILABLE" if is_sqlite else "DATABASE_UNSUITABLE")
