"""Shape of what RPCs of the issuer are given; each refusal names the field and the remedy."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from pki.issuer.limits import MOST_ROWS
from pki.profiles import KINDS_BY_NAME
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.identity import SERVICE_ROLES, TENANT_ID, Role

_INSTANCE_ID = re.compile(r"\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_TENANT_ID = re.compile(rf"\A{TENANT_ID}\Z")
_HOST = re.compile(r"\A[a-z0-9][a-z0-9.-]{0,62}\Z")
_OPERATOR = re.compile(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")
_DNS_NAME = re.compile(
    r"\A(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*\Z"
)
_HEX = re.compile(r"\A[0-9a-f]{1,64}\Z")
_KEY_HASH = re.compile(r"\A[0-9a-f]{64}\Z")
_GENERATION = re.compile(r"\A([a-z-]+)/[1-9][0-9]{0,5}\Z")
_MAX_NAMES = 16
MAX_REASON = 255
_MAX_REQUEST_ID = 64
_REASON = re.compile(r"\A[A-Z][A-Z0-9_]{0,63}\Z")


def instance_id(value: str) -> str:
    if not _INSTANCE_ID.match(value):
        raise InvalidRequestError(f"instance_id {value[:64]!r} is not a lower-case UUID")
    return value


def tenant_id(value: str) -> str:
    if not _TENANT_ID.match(value):
        raise InvalidRequestError(
            f"tenant_id {value[:80]!r} must be 1 to 64 lower-case letters, digits, '-' or '_'"
        )
    return value


def service_role(value: str) -> Role:
    if value not in SERVICE_ROLES:
        raise InvalidRequestError(
            f"role {value[:64]!r} is none of {', '.join(sorted(SERVICE_ROLES))}"
        )
    return Role(value)


def host(value: str) -> str:
    if not _HOST.match(value):
        raise InvalidRequestError(
            f"host {value[:80]!r} must be 1 to 63 lower-case letters, digits, '-' or '.'"
        )
    return value


def operator_name(value: str) -> str:
    if not _OPERATOR.match(value):
        raise InvalidRequestError(
            f"name {value[:80]!r} must be 1 to 63 lower-case letters, digits, '.', '-' or '_'"
        )
    return value


def dns_names(values: Sequence[str]) -> list[str]:
    if len(values) > _MAX_NAMES:
        raise InvalidRequestError(f"engine_dns_names has more than {_MAX_NAMES} entries")
    for value in values:
        if not _DNS_NAME.match(value):
            raise InvalidRequestError(f"engine_dns_names: {value[:80]!r} is not a DNS name")
    return list(values)


def ip_addresses(values: Sequence[str]) -> list[str]:
    if len(values) > _MAX_NAMES:
        raise InvalidRequestError(f"engine_ip_addresses has more than {_MAX_NAMES} entries")
    try:
        return [str(ipaddress.ip_address(value)) for value in values]
    except ValueError as error:
        raise InvalidRequestError(f"engine_ip_addresses: {error}") from error


def denied(kind: pb.DenialKind.ValueType, value: str) -> tuple[str, str]:
    """The name of the denial's kind, and the value as certificates are recorded.

    People copy a serial from tools that begin it with a zero, or write it in capitals. Raises
    InvalidRequestError when `value` cannot be one of that kind.
    """
    if kind in {pb.DENIAL_KIND_SERIAL, pb.DENIAL_KIND_KEY}:
        value = value.lower()
    if kind == pb.DENIAL_KIND_SERIAL:
        value = value.lstrip("0")
    match = _GENERATION.match(value)
    fits = {
        pb.DENIAL_KIND_SERIAL: bool(_HEX.match(value)),
        pb.DENIAL_KIND_KEY: bool(_KEY_HASH.match(value)),
        pb.DENIAL_KIND_INSTANCE: bool(_INSTANCE_ID.match(value)),
        pb.DENIAL_KIND_TENANT: bool(_TENANT_ID.match(value)),
        pb.DENIAL_KIND_GENERATION: match is not None and match[1] in KINDS_BY_NAME,
    }
    if kind not in fits:
        raise InvalidRequestError("kind must be SERIAL, KEY, INSTANCE, TENANT or GENERATION")
    name = pb.DenialKind.Name(kind).removeprefix("DENIAL_KIND_")
    if not fits[kind]:
        raise InvalidRequestError(f"value {value[:80]!r} does not name a {name.lower()}")
    return name, value


def refusals(values: Sequence[pb.Refusal]) -> list[pb.Refusal]:
    if len(values) > MOST_ROWS:
        raise InvalidRequestError(f"refusals has more than {MOST_ROWS} entries")
    for value in values:
        if not _REASON.match(value.reason) or value.count < 1:
            raise InvalidRequestError("refusals: each needs a reason in upper case and a count")
    return list(values)


def request_id(value: str) -> str:
    """Chosen by the caller, kept for good: short, and fit for a log."""
    if not value or len(value) > _MAX_REQUEST_ID or not value.isprintable():
        raise InvalidRequestError(
            f"request_id must be 1 to {_MAX_REQUEST_ID} printable characters, for example a UUID"
        )
    return value


def reason(value: str) -> str:
    if not value or len(value) > MAX_REASON or not value.isprintable():
        raise InvalidRequestError(f"reason must be 1 to {MAX_REASON} printable characters")
    return value
