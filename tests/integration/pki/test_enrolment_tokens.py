"""A token gives one certificate to one key, once, for its own instance, in its time."""

from __future__ import annotations

import datetime as dt
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from pki import tokens
from pki.issuer import inventory
from pki.issuer.guests import Refusal
from pki.models import AuditRecord, Certificate, Token
from pki.requests import new_key
from pki.store import authorities, denials
from pki.store import tokens as token_rows
from tests.integration.pki.conftest import TENANT, Desk
from trove_grpc.errors import InvalidRequestError
from trove_grpc.identity import identify

MINUTE = dt.timedelta(minutes=1)


def bundle_of(desk: Desk):
    return desk.store.run_now(authorities.bundle)


def test_token_gives_a_pending_certificate_that_names_instance_and_tenant(desk: Desk) -> None:
    instance_id, certificate = desk.enrolled()
    named = identify(certificate.chain_pem, bundle_of(desk))
    assert (named.instance_id, named.tenant_id) == (instance_id, TENANT)
    assert desk.state(certificate) == "PENDING"


def test_token_is_used_once_when_many_keys_race_for_it(desk: Desk) -> None:
    instance_id = desk.register()
    token = desk.mint(instance_id)
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda _: desk.enrol(token, instance_id), range(16)))
    assert len([each for each in outcomes if isinstance(each, Certificate)]) == 1
    issued = desk.store.run_now(lambda s: s.scalar(sa.select(sa.func.count(Certificate.serial))))
    assert issued == 1


def test_same_key_racing_gets_the_same_certificate(desk: Desk) -> None:
    instance_id = desk.register()
    token, key = desk.mint(instance_id), new_key()
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda _: desk.enrol(token, instance_id, key), range(8)))
    assert len({each.serial for each in outcomes if isinstance(each, Certificate)}) == 1
    assert all(isinstance(each, Certificate) for each in outcomes)


def test_lost_reply_can_be_asked_for_again_with_the_same_key(desk: Desk) -> None:
    instance_id = desk.register()
    token, key = desk.mint(instance_id), new_key()
    first = desk.enrol(token, instance_id, key)
    desk.now += 9 * MINUTE
    again = desk.enrol(token, instance_id, key)
    assert isinstance(first, Certificate)
    assert isinstance(again, Certificate)
    assert again.chain_pem == first.chain_pem
    assert desk.count_audited("enrol-guest") == 1  # a guest may ask all day


def test_lost_reply_is_refused_after_the_retry_window(desk: Desk) -> None:
    instance_id = desk.register()
    token, key = desk.mint(instance_id), new_key()
    desk.enrol(token, instance_id, key)
    desk.now += 10 * MINUTE
    assert desk.enrol(token, instance_id, key) == Refusal("used")


def test_lost_reply_is_refused_once_the_certificate_was_used(desk: Desk) -> None:
    instance_id = desk.register()
    token, key = desk.mint(instance_id), new_key()
    certificate = desk.enrol(token, instance_id, key)
    assert isinstance(certificate, Certificate)
    desk.confirm(certificate)
    assert desk.enrol(token, instance_id, key) == Refusal("used")


def test_used_token_gives_nothing_to_another_key(desk: Desk) -> None:
    instance_id = desk.register()
    token = desk.mint(instance_id)
    desk.enrol(token, instance_id)
    assert desk.enrol(token, instance_id) == Refusal("used by another key")


def test_token_of_another_instance_is_refused_and_stays_usable(desk: Desk) -> None:
    mine, other = desk.register(), desk.register()
    token = desk.mint(other)
    assert desk.enrol(token, mine) == Refusal("foreign")
    assert isinstance(desk.enrol(token, other), Certificate)


def test_expired_token_is_refused(desk: Desk) -> None:
    instance_id = desk.register()
    token = desk.mint(instance_id)
    desk.now += desk.config.token_lifetime
    assert desk.enrol(token, instance_id) == Refusal("expired")


def test_older_token_is_void_when_a_newer_one_exists(desk: Desk) -> None:
    instance_id = desk.register()
    older, newer = desk.mint(instance_id), desk.mint(instance_id)
    assert desk.enrol(older, instance_id) == Refusal("void")
    assert isinstance(desk.enrol(newer, instance_id), Certificate)


def test_voiding_ends_unused_tokens_and_spares_a_used_one(desk: Desk) -> None:
    instance_id = desk.register()
    used = desk.mint(instance_id)
    key = new_key()
    certificate = desk.enrol(used, instance_id, key)
    assert isinstance(certificate, Certificate)
    unused = desk.mint(instance_id)
    for _ in range(2):
        desk.store.run_now(
            lambda s: inventory.void_tokens(s, instance_id, actor="test", now=desk.now)
        )
    assert desk.enrol(unused, instance_id) == Refusal("void")
    again = desk.enrol(used, instance_id, key)  # its reply may have been lost
    assert isinstance(again, Certificate)
    assert again.serial == certificate.serial


def test_wrong_secret_locks_the_token_after_five_attempts(desk: Desk) -> None:
    instance_id = desk.register()
    token = desk.mint(instance_id)
    wrong = tokens.EnrolmentToken(token.lookup, bytes(32))
    for _ in range(5):
        assert desk.enrol(wrong, instance_id) == Refusal("unknown")
    assert desk.enrol(token, instance_id) == Refusal("locked")


def test_four_wrong_secrets_do_not_lock_the_token(desk: Desk) -> None:
    instance_id = desk.register()
    token = desk.mint(instance_id)
    for _ in range(4):
        desk.enrol(tokens.EnrolmentToken(token.lookup, bytes(32)), instance_id)
    assert isinstance(desk.enrol(token, instance_id), Certificate)


def test_token_of_a_retired_instance_is_refused(desk: Desk) -> None:
    instance_id = desk.register()
    token = desk.mint(instance_id)
    desk.retire(instance_id)
    assert isinstance(desk.enrol(token, instance_id), Refusal)


def test_no_token_and_unknown_token_are_refused(desk: Desk) -> None:
    instance_id = desk.register()
    assert desk.enrol(None, instance_id) == Refusal("unknown")
    assert desk.enrol(tokens.new(), instance_id) == Refusal("unknown")
    assert desk.enrol(tokens.new(), str(uuid.uuid4())) == Refusal("unknown")


def test_key_of_another_instance_is_refused_and_the_token_is_not_used_up(desk: Desk) -> None:
    key = new_key()
    first, second = desk.register(), desk.register()
    desk.enrol(desk.mint(first), first, key)
    token = desk.mint(second)
    with pytest.raises(InvalidRequestError) as refused:
        desk.enrol(token, second, key)
    assert refused.value.reason == "CSR_KEY_REUSED"
    assert isinstance(desk.enrol(token, second), Certificate)


def test_enrolling_anew_denies_the_earlier_machine_at_once_and_counts_the_epoch(
    desk: Desk,
) -> None:
    instance_id, first = desk.enrolled()
    desk.confirm(first)
    second = desk.enrol(desk.mint(instance_id), instance_id)
    assert isinstance(second, Certificate)
    assert desk.denied_serials() == {first.serial: desk.now}
    assert second.enrol_epoch == 2
    assert desk.state(first) == "SUPERSEDED"


def test_database_holds_no_token_in_the_clear(desk: Desk) -> None:
    instance_id = desk.register()
    token = desk.mint(instance_id)
    desk.enrol(token, instance_id)
    row = desk.store.run_now(lambda s: s.scalars(sa.select(Token)).one())
    secret = token.text.rpartition(".")[2]
    assert token.secret not in row.secret_hash
    assert secret not in repr(row)
    audit = desk.store.run_now(
        lambda s: [repr(each) for each in s.scalars(sa.select(AuditRecord))]
    )
    assert not any(secret in line or token.lookup in line for line in audit)


def test_statement_that_takes_a_token_succeeds_once_even_when_nothing_else_guards_it(
    desk: Desk,
) -> None:
    instance_id = desk.register()
    desk.mint(instance_id)
    token_id = desk.store.run_now(lambda s: s.scalars(sa.select(Token.token_id)).one())

    def take(number: int) -> bool:
        return desk.store.run_now(lambda s: token_rows.take(s, token_id, f"{number:x}", desk.now))

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(take, range(8)))[-2:] == [False, True]


@pytest.mark.parametrize("kind", [denials.INSTANCE, denials.TENANT])
def test_token_of_a_denied_instance_or_tenant_is_refused(desk: Desk, kind: str) -> None:
    instance_id = desk.register()
    token = desk.mint(instance_id)
    value = {denials.INSTANCE: instance_id, denials.TENANT: TENANT}[kind]
    desk.store.run_now(
        lambda s: inventory.create_denial(s, kind, value, "stolen", actor="test", now=desk.now)
    )
    assert desk.enrol(token, instance_id) == Refusal("certificate_denied")
