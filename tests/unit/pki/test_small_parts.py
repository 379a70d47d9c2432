"""Tokens, limits, the denial list, settings, shapes, the renewal's moment."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from google.protobuf import timestamp_pb2

from pki import renewal, tokens
from pki.denials import DenialList
from pki.issuer import checks
from pki.issuer.config import Config
from pki.issuer.limits import MOST_ROWS, FailureLimiter, RowAllowance
from tests.fakes.certificates import TestAuthority
from trove_grpc.errors import InvalidRequestError, OverloadedError
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.identity import Identity, Role

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
INSTANCE = "11111111-2222-3333-4444-555555555555"
CALLER = Identity(
    role=Role.GUEST,
    serial="ab",
    key_hash="cd",
    instance_id=INSTANCE,
    tenant_id="t",
    generation=2,
)


def stamp(moment: dt.datetime) -> timestamp_pb2.Timestamp:
    result = timestamp_pb2.Timestamp()
    result.FromDatetime(moment)
    return result


def settings(**changes) -> Config:
    return Config(
        identity=Path("/i"),
        operator_socket=Path("/s"),
        database_url="sqlite://",
        custody_directory=Path("/c"),
        passphrase_file=Path("/p"),
        **changes,
    )


def test_token_survives_its_text() -> None:
    token = tokens.new()
    assert tokens.parse(token.text) == token


def test_token_shows_nothing_of_itself() -> None:
    token = tokens.new()
    assert token.text not in repr(token)
    assert token.lookup not in f"{token!r} {token}"


_TEXT = tokens.EnrolmentToken("A" * 11, bytes(32)).text


@pytest.mark.parametrize(
    "text",
    [
        "",
        _TEXT[:-1],
        _TEXT + "\n",
        _TEXT.replace("trv1", "trv2"),
        _TEXT.replace(".", "", 1),
        "x" * 1_000_000,
        # The last character carries unused bits: another spelling of a secret is not the token.
        _TEXT[:-1] + "B",
    ],
)
def test_text_that_is_no_token_is_none(text: str) -> None:
    assert tokens.parse(_TEXT) is not None
    assert tokens.parse(text) is None


def test_limiter_refuses_a_peer_that_failed_too_often_until_a_minute_later() -> None:
    time = [0.0]
    limiter = FailureLimiter(2, clock=lambda: time[0])
    for _ in range(2):
        limiter.check("a")
        limiter.count("a")
    with pytest.raises(OverloadedError) as refused:
        limiter.check("a")
    assert refused.value.retry_after == pytest.approx(60)
    limiter.check("b")
    time[0] = 60.0
    limiter.check("a")


def test_gateway_that_had_many_rows_written_waits_and_another_does_not() -> None:
    time = [0.0]
    allowance = RowAllowance(60, clock=lambda: time[0])
    for _ in range(2):
        allowance.take("a", 60)
    with pytest.raises(OverloadedError) as refused:
        allowance.take("a", 30)
    assert refused.value.retry_after == pytest.approx(30)
    allowance.take("b", 60)
    time[0] = 30.0
    allowance.take("a", 30)
    with pytest.raises(OverloadedError):
        allowance.take("a", 1)


def test_the_largest_telling_fits_the_smallest_allowance() -> None:
    RowAllowance(1).take("a", MOST_ROWS)


def test_limiter_remembers_a_bounded_number_of_peers() -> None:
    limiter = FailureLimiter(1)
    for number in range(10_500):
        limiter.count(str(number))
    limiter.check("0")
    with pytest.raises(OverloadedError):
        limiter.check("10499")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pb.DENIAL_KIND_SERIAL, "ab"),
        (pb.DENIAL_KIND_KEY, "cd"),
        (pb.DENIAL_KIND_INSTANCE, INSTANCE),
        (pb.DENIAL_KIND_TENANT, "t"),
        (pb.DENIAL_KIND_GENERATION, "guest/2"),
    ],
)
def test_denial_list_refuses_whom_any_denial_names(kind, value: str) -> None:
    denied = DenialList(now=lambda: NOW)
    assert denied.refusal(CALLER) is None
    denied.apply([pb.Denial(sequence=7, kind=kind, value=value, reason="why")])
    refusal = denied.refusal(CALLER)
    assert refusal is not None
    assert refusal.reason == "CERTIFICATE_DENIED"
    assert denied.sequence == 7


def test_denial_acts_from_its_time_on_and_is_forgotten_when_it_expired() -> None:
    time = [NOW]
    denied = DenialList(now=lambda: time[0])
    minute = dt.timedelta(minutes=1)
    denied.apply(
        [
            pb.Denial(
                sequence=1,
                kind=pb.DENIAL_KIND_SERIAL,
                value="ab",
                effective_time=stamp(NOW + minute),
                expire_time=stamp(NOW + 2 * minute),
            )
        ]
    )
    assert denied.refusal(CALLER) is None
    time[0] += minute
    assert denied.refusal(CALLER) is not None
    time[0] += minute
    denied.forget_expired()
    assert len(denied) == 0
    assert denied.sequence == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"guest_lifetime": dt.timedelta(days=365)}, "guest_lifetime"),
        ({"intermediate_lifetime": dt.timedelta(days=3650)}, "intermediate_lifetime"),
        ({"token_lifetime": dt.timedelta(minutes=1)}, "token_retry_window"),
        ({"trust_domain": "Local"}, "trust_domain"),
        ({"trust_domain": "a" * 39}, "trust_domain"),
        ({"token_max_failures": 0}, "token_max_failures"),
        ({"superseded_grace": dt.timedelta(0)}, "superseded_grace"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name(changes, named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        settings(**changes)


def test_socket_path_that_the_kernel_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="107"):
        Config(
            identity=Path("/i"),
            operator_socket=Path("/" + "s" * 107),
            database_url="sqlite://",
            custody_directory=Path("/c"),
            passphrase_file=Path("/p"),
        )


def test_guests_with_short_lives_may_renew_more_often() -> None:
    assert settings().certificates_per_hour == 6
    short = settings(guest_lifetime=dt.timedelta(minutes=1))
    assert short.certificates_per_hour == 480


@pytest.mark.parametrize("value", ["", "../x", f"A{INSTANCE[1:]}", INSTANCE + "\n", "' OR 1=1 --"])
def test_text_that_is_no_instance_id_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequestError):
        checks.instance_id(value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pb.DENIAL_KIND_UNSPECIFIED, "ab"),
        (pb.DENIAL_KIND_SERIAL, "xyz"),
        (pb.DENIAL_KIND_INSTANCE, "ab"),
        (pb.DENIAL_KIND_GENERATION, "guest"),
        (pb.DENIAL_KIND_GENERATION, "nobody/1"),
    ],
)
def test_denial_that_names_nothing_possible_is_refused(kind, value: str) -> None:
    with pytest.raises(InvalidRequestError):
        checks.denied(kind, value)


@pytest.mark.parametrize("typed", ["0AB12", "ab12", "00ab12"])
def test_serial_is_denied_as_certificates_are_recorded(typed):
    assert checks.denied(pb.DENIAL_KIND_SERIAL, typed) == ("SERIAL", "ab12")


def test_half_a_key_hash_denies_nothing_and_is_refused():
    key = pb.DENIAL_KIND_KEY
    assert checks.denied(key, "AB" * 32) == ("KEY", "ab" * 32)
    with pytest.raises(InvalidRequestError):
        checks.denied(key, "ab" * 31)


@pytest.mark.parametrize("name", ["", "a b", "-" * 300, "*.db.local", "a..b", "x" * 64 + ".y"])
def test_text_that_is_no_dns_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        checks.dns_names([name])


def test_service_renews_at_a_third_of_its_life(tmp_path: Path) -> None:
    identity = TestAuthority().identity_for_service(
        Role.API, tmp_path, lifetime=dt.timedelta(seconds=90)
    )
    leaf = identity.load().leaf
    before_end = leaf.not_valid_after_utc - renewal.due_time(leaf)
    assert before_end == pytest.approx(dt.timedelta(seconds=60), abs=dt.timedelta(seconds=1))
