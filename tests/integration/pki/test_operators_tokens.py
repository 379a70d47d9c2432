"""What an operator does with enrolment tokens and with the bundle: list, revoke, push."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest

from pki.issuer import answers, inventory
from pki.issuer.guests import Refusal
from pki.models import Certificate
from pki.store import authorities
from tests.integration.pki.conftest import Desk
from trove_grpc.errors import InvalidRequestError, NotFoundError
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb


def listed(desk: Desk, *, instance_id: str = "", page_token: str = "", size: int = 100):
    rows = desk.store.run_now(
        lambda s: inventory.list_tokens(
            s, instance_id=instance_id, page_token=page_token, size=size
        )
    )
    most = desk.config.token_max_failures
    return [answers.token(row, desk.now, max_failures=most) for row in rows]


def revoke(desk: Desk, token_id: str) -> bool:
    return desk.store.run_now(
        lambda s: inventory.revoke_token(s, token_id, actor="test", now=desk.now)
    )


def test_tokens_are_listed_with_their_state_and_without_anything_that_uses_them(desk: Desk):
    used, replaced, expired = (desk.register() for _ in range(3))
    desk.mint(expired)
    desk.now += desk.config.token_lifetime
    assert isinstance(desk.enrol(desk.mint(used), used), Certificate)
    first, second = desk.mint(replaced), desk.mint(replaced)
    shown = listed(desk)
    states = [(token.instance_id, pb.TokenState.Name(token.state)) for token in shown]
    assert sorted(states) == sorted(
        [
            (used, "TOKEN_STATE_USED"),
            (replaced, "TOKEN_STATE_VOID"),
            (replaced, "TOKEN_STATE_OPEN"),
            (expired, "TOKEN_STATE_EXPIRED"),
        ]
    )
    for clear in (first, second):
        assert all(part not in str(shown) for part in clear.text.split(".")[1:])


def test_a_token_that_failed_too_often_is_shown_as_locked(desk: Desk):
    instance_id = desk.register()
    token = desk.mint(instance_id)
    for _ in range(desk.config.token_max_failures):
        assert isinstance(desk.enrol(token, str(uuid.uuid4())), Refusal)
    assert [each.state for each in listed(desk)] == [pb.TOKEN_STATE_LOCKED]


def test_pages_of_tokens_hold_each_token_once(desk: Desk):
    for _ in range(5):
        desk.mint(desk.register())
    found, page = [], listed(desk, size=2)
    while page:
        found += [token.token_id for token in page]
        page = listed(desk, page_token=found[-1], size=2)
    assert len(found) == len(set(found)) == 5
    with pytest.raises(InvalidRequestError, match="page_token"):
        listed(desk, page_token="not ours")


def test_a_revoked_token_enrols_nobody_and_a_second_revocation_does_nothing(desk: Desk):
    instance_id = desk.register()
    token = desk.mint(instance_id)
    token_id = listed(desk, instance_id=instance_id)[0].token_id
    assert revoke(desk, token_id) is True
    assert revoke(desk, token_id) is False
    assert isinstance(desk.enrol(token, instance_id), Refusal)


def test_a_used_or_expired_token_cannot_be_revoked_and_an_unknown_one_is_named(desk: Desk):
    used, expired = desk.register(), desk.register()
    desk.enrol(desk.mint(used), used)
    desk.mint(expired)
    desk.now += desk.config.token_lifetime + dt.timedelta(seconds=1)
    assert [revoke(desk, each.token_id) for each in listed(desk)] == [False, False]
    with pytest.raises(NotFoundError, match="trove-pki token list"):
        revoke(desk, "nobody's")


def test_a_pushed_bundle_has_a_new_version_and_the_same_authorities(desk: Desk):
    before = desk.store.run_now(authorities.bundle)
    version = desk.store.run_now(
        lambda s: inventory.push_bundle(s, "a gateway missed it", actor="test", now=desk.now)
    )
    after = desk.store.run_now(authorities.bundle)
    assert version == after.version == before.version + 1
    assert list(after.authorities) == list(before.authorities)
