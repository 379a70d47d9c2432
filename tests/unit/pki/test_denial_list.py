from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from google.protobuf import timestamp_pb2

from pki.denials import DenialList
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb2
from trove_grpc.identity import Identity, Role

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
GUEST = Identity(
    role=Role.GUEST,
    trust_domain="local.trove",
    tenant_id="tenant-a",
    instance_id="instance-1",
    serial="ab12",
    key_hash="cd34",
    generation=3,
)


def at(moment):
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def listing(*denials, now=NOW):
    known = DenialList(lambda: now)
    known.apply(denials)
    return known


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pb2.DENIAL_KIND_SERIAL, "AB12"),
        (pb2.DENIAL_KIND_SERIAL, "00ab12"),
        (pb2.DENIAL_KIND_KEY, "CD34"),
        (pb2.DENIAL_KIND_INSTANCE, "instance-1"),
        (pb2.DENIAL_KIND_TENANT, "tenant-a"),
        (pb2.DENIAL_KIND_GENERATION, "guest/3"),
    ],
)
def test_each_kind_of_denial_refuses_its_guest(kind, value):
    refusal = listing(pb2.Denial(kind=kind, value=value, reason="stolen")).refusal(GUEST)
    assert refusal.reason == "CERTIFICATE_DENIED"
    assert "stolen" in refusal.message


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pb2.DENIAL_KIND_SERIAL, "ab13"),
        (pb2.DENIAL_KIND_INSTANCE, "instance-2"),
        (pb2.DENIAL_KIND_GENERATION, "guest/2"),
        (pb2.DENIAL_KIND_GENERATION, "service/3"),
        (pb2.DENIAL_KIND_TENANT, "ab12"),
    ],
)
def test_denial_of_another_leaves_a_guest_alone(kind, value):
    assert listing(pb2.Denial(kind=kind, value=value)).refusal(GUEST) is None


def test_tenant_denial_does_not_touch_a_service_without_tenant():
    service = dataclasses.replace(GUEST, role=Role.API, tenant_id="", instance_id="")
    empty = pb2.Denial(kind=pb2.DENIAL_KIND_TENANT, value="")
    assert listing(empty).refusal(service) is None
    generation = pb2.Denial(kind=pb2.DENIAL_KIND_GENERATION, value="service/3")
    assert listing(generation).refusal(service) is not None


def test_denial_acts_from_its_effective_time_to_its_expiry():
    denial = pb2.Denial(
        kind=pb2.DENIAL_KIND_SERIAL,
        value="ab12",
        effective_time=at(NOW),
        expire_time=at(NOW + dt.timedelta(hours=1)),
    )
    minute = dt.timedelta(minutes=1)
    assert listing(denial, now=NOW - minute).refusal(GUEST) is None
    assert listing(denial, now=NOW).refusal(GUEST) is not None
    assert listing(denial, now=NOW + 61 * minute).refusal(GUEST) is None


def test_of_two_denials_the_earlier_start_counts():
    known = listing(
        pb2.Denial(
            kind=pb2.DENIAL_KIND_SERIAL,
            value="ab12",
            effective_time=at(NOW + dt.timedelta(minutes=15)),
            reason="superseded",
        ),
        pb2.Denial(kind=pb2.DENIAL_KIND_SERIAL, value="ab12", reason="stolen"),
    )
    assert "stolen" in known.refusal(GUEST).message


def test_list_forgets_what_has_expired_by_itself():
    known = listing(
        pb2.Denial(kind=pb2.DENIAL_KIND_SERIAL, value="1", expire_time=at(NOW)),
        pb2.Denial(kind=pb2.DENIAL_KIND_SERIAL, value="2"),
    )
    known.forget_expired()
    assert len(known) == 1


def test_later_denial_in_the_future_does_not_free_what_is_denied_now():
    known = listing(
        pb2.Denial(kind=pb2.DENIAL_KIND_SERIAL, value="ab12", reason="stolen"),
        pb2.Denial(
            kind=pb2.DENIAL_KIND_SERIAL,
            value="ab12",
            effective_time=at(NOW + dt.timedelta(minutes=15)),
            reason="superseded",
        ),
    )
    assert "stolen" in known.refusal(GUEST).message


def test_list_says_when_a_denial_begins_to_act():
    minute = dt.timedelta(minutes=1)
    known = listing(pb2.Denial(kind=pb2.DENIAL_KIND_SERIAL, value="ab12", effective_time=at(NOW)))
    assert known.starts_between(NOW - minute, NOW)
    assert not known.starts_between(NOW, NOW + minute)


def test_lifted_denial_frees_and_a_later_one_refuses_again():
    tenant = {"kind": pb2.DENIAL_KIND_TENANT, "value": "tenant-a"}
    known = listing(pb2.Denial(sequence=1, **tenant))
    known.apply([pb2.Denial(sequence=2, expire_time=at(NOW), **tenant)])
    assert known.refusal(GUEST) is None
    known.apply([pb2.Denial(sequence=3, **tenant)])
    assert known.refusal(GUEST) is not None


def test_lifting_that_is_older_than_what_is_known_frees_nobody():
    tenant = {"kind": pb2.DENIAL_KIND_TENANT, "value": "tenant-a"}
    known = listing(pb2.Denial(sequence=3, **tenant))
    known.apply([pb2.Denial(sequence=2, expire_time=at(NOW), **tenant)])
    assert known.refusal(GUEST) is not None


def test_denial_lifted_by_a_clock_that_is_ahead_ends_as_soon_as_ours_gets_there():
    tenant = {"kind": pb2.DENIAL_KIND_TENANT, "value": "tenant-a"}
    now = [NOW - dt.timedelta(milliseconds=50)]
    known = DenialList(lambda: now[0])
    known.apply([pb2.Denial(sequence=1, **tenant)])
    known.apply([pb2.Denial(sequence=2, expire_time=at(NOW), **tenant)])
    assert known.refusal(GUEST) is not None
    now[0] = NOW
    assert known.refusal(GUEST) is None


def test_word_of_a_denial_that_comes_after_its_lifting_refuses_nobody():
    tenant = {"kind": pb2.DENIAL_KIND_TENANT, "value": "tenant-a"}
    known = listing(pb2.Denial(sequence=1, **tenant))
    known.apply([pb2.Denial(sequence=2, expire_time=at(NOW), **tenant)])
    known.apply([pb2.Denial(sequence=1, **tenant)])
    assert known.refusal(GUEST) is None
