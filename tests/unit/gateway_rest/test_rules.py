"""Small rules of the REST API, without a server."""

from __future__ import annotations

import datetime as dt

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.rest import problems, views
from gateway.rest.auth import NoAuth
from gateway.rest.auth.opening import opened_authenticator
from gateway.rest.dialects import dialect_of
from gateway.rest.fields import Fields, kind_of, shown
from gateway.rest.links import Links
from trove_grpc import errors
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import resources_pb2

LINKS = Links(base="https://host", project_id="demo")


def all_errors(cls=errors.TroveError):
    yield cls
    for child in cls.__subclasses__():
        yield from all_errors(child)


@pytest.mark.parametrize("cls", list(all_errors()))
def test_every_kind_of_error_has_a_code_and_a_key(cls):
    response = problems.render(cls("what failed"))

    assert 400 <= response.status < 600


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotFoundError("x"), 404),
        (errors.NotFoundError("x", reason="DATASTORE_NOT_FOUND"), 404),
        (errors.NotFoundError("x", reason="DATASTORE_VERSION_NOT_FOUND"), 400),
        (errors.PermissionDeniedError("x"), 403),
        (errors.PermissionDeniedError("x", reason="NOT_ADMIN"), 401),
        (errors.AlreadyExistsError("x"), 409),
        (errors.SessionMovedError("x"), 409),
        (errors.ConflictError("x", reason="INSTANCE_NOT_READY"), 422),
    ],
)
def test_reason_goes_before_class_and_a_subclass_by_its_parent(error, status):
    assert problems.status_of(error) == status


def test_hint_when_to_retry_is_the_errors_own():
    response = problems.render(errors.OverloadedError("busy", retry_after=7))

    assert response.headers["Retry-After"] == "7"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_loopback_may_be_served_without_authentication(host):
    NoAuth().check_listen(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "", "localhost.evil.example"])  # noqa: S104
def test_anything_else_may_not(host):
    with pytest.raises(errors.InvalidRequestError, match="loopback"):
        NoAuth().check_listen(host)


async def test_unknown_authenticator_names_the_known_ones():
    with pytest.raises(errors.InvalidRequestError, match="known: 'keystone', 'none'"):
        async with opened_authenticator("keystone?", None, public_endpoint=""):
            pass


def test_engine_without_rules_says_what_to_leave_out():
    with pytest.raises(errors.UnsupportedError, match=r"instance\.users"):
        dialect_of("cassandra")


@pytest.mark.parametrize("value", [True, 1, 1.5, "x", [], {}, None])
def test_every_json_value_has_a_name(value):
    assert kind_of(value)


def test_message_shows_a_name_cut_and_without_escape_sequences():
    assert shown("\x1b[31m" + "x" * 500) == repr("\x1b[31m" + "x" * 59 + "…")
    assert "\x1b" not in shown("\x1b")


@pytest.mark.parametrize(("value", "number"), [(1, 1), ("2", 2), ("007", 7), (10**30, 10**30)])
def test_number_may_be_decimal_text(value, number):
    assert Fields({"size": value}, "volume").integer("size", least=1) == number


def test_marker_is_quoted_twice_as_clients_unquote_twice():
    (link,) = LINKS.following("users", limit=2, marker="a@%")

    assert link["href"] == "https://host/v1.0/demo/users?limit=2&marker=a%2540%2525"


def test_times_have_neither_zone_nor_fraction():
    time = Timestamp()
    time.FromDatetime(dt.datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=dt.UTC))

    assert views.moment(time) == "2026-01-02T03:04:05"


@pytest.mark.parametrize(
    ("address", "kind"),
    [("127.0.0.9", "private"), ("10.1.1.1", "private"), ("8.8.8.8", "public"), ("x", "private")],
)
def test_address_is_private_unless_it_is_global(address, kind):
    view = views.instance_summary(resources_pb2.InstanceView(addresses=[address]), LINKS)

    assert view["addresses"] == [{"address": address, "type": kind}]
    assert view["ip"] == [address]


def test_what_is_unknown_is_left_out_of_the_view():
    view = views.instance_shown(resources_pb2.InstanceView(id="x", status="BUILD"), LINKS)

    assert view["access"] == {}
    assert not {"ip", "addresses", "hostname", "fault", "engine"} & set(view)


def test_recovered_engine_shows_its_starts():
    instance = resources_pb2.InstanceView(
        id="x",
        status="ACTIVE",
        volume_size_gib=1,
        observation=engine_pb2.Observation(
            state=engine_pb2.ENGINE_STATE_HEALTHY,
            engine_version="15.18",
            start_count=2,
            volume=engine_pb2.VolumeUsage(used_bytes=1 << 29),
        ),
    )
    view = views.instance_shown(instance, LINKS)

    assert view["engine"] == {"state": "HEALTHY", "version": "15.18", "start_count": 2}
    assert view["volume"] == {"size": 1, "used": 0.5}
