"""Messages of the issuer as rows: plain values under stable names."""

from __future__ import annotations

import datetime as dt
from typing import Any

from cryptography import x509
from google.protobuf.message import Message

from pki import profiles
from trove_grpc.gen.common.v1 import trust_pb2


def time_of(message: Message, field: str) -> dt.datetime | None:
    """A timestamp field; None where it is unset."""
    if not message.HasField(field):
        return None
    moment: dt.datetime = getattr(message, field).ToDatetime(tzinfo=dt.UTC)
    return moment


def span_of(message: Message, field: str) -> dt.timedelta | None:
    """A duration field; None where it is unset."""
    if not message.HasField(field):
        return None
    value: dt.timedelta = getattr(message, field).ToTimedelta()
    return value


def enum_name(wrapper: Any, value: int, prefix: str) -> str:
    """`CERTIFICATE_STATE_DENIED` as `DENIED`; a value newer than we are as a number."""
    try:
        name: str = wrapper.Name(value)
    except ValueError:
        return str(value)
    return name.removeprefix(f"{prefix}_")


def kind_name(kind: profiles.Kind) -> str:
    """`guest`; a kind that is newer than we are as a number."""
    return profiles.KIND_NAMES.get(kind, str(kind))


def state_name(state: int) -> str:
    return enum_name(trust_pb2.AuthorityState, state, "AUTHORITY_STATE")


def certificate_facts(pem: bytes) -> dict[str, Any]:
    """What an authority's certificate says of itself."""
    certificate = x509.load_pem_x509_certificate(pem)
    return {
        "serial": f"{certificate.serial_number:x}",
        "start_time": certificate.not_valid_before_utc,
        "expire_time": certificate.not_valid_after_utc,
    }


def used(start: dt.datetime, end: dt.datetime, now: dt.datetime) -> float:
    """Which part of a life is over, 0 to 1."""
    return min(1.0, max(0.0, (now - start) / (end - start)))
