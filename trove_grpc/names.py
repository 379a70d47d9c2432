"""Who can be a caller, and how callers are named. No cryptography: an agent imports this.

Names are SPIFFE IDs, matched by one anchored expression. What a certificate must be to carry one
stands in trove_grpc/identity.py.
"""

from __future__ import annotations

import datetime as dt
import enum
import re
from dataclasses import dataclass

from trove_grpc.errors import UnauthenticatedError

_MAX_URI_BYTES = 255
_DOMAIN = r"(?P<domain>[a-z0-9][a-z0-9.-]{0,127})"
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_SERVICES = "api|conductor|taskmanager|gateway|issuer"
TENANT_ID = r"[0-9a-z][0-9a-z_-]{0,63}"
_URI = re.compile(
    rf"\Aspiffe://{_DOMAIN}/(?:"
    rf"tenant/(?P<tenant>{TENANT_ID})/instance/(?P<instance>{_UUID})"
    rf"|service/(?P<service>{_SERVICES})/(?P<host>[a-z0-9][a-z0-9.-]{{0,62}})"
    rf"|operator/(?P<operator>[a-z0-9][a-z0-9._-]{{0,62}})"
    rf"|breakglass/(?P<incident>[a-z0-9][a-z0-9._-]{{0,62}})"
    r")\Z",
    re.ASCII,
)


class Role(enum.StrEnum):
    """What a caller may be; the authorisation table speaks in these."""

    ANONYMOUS = "anonymous"  # the enrolment listener, which asks for no certificate
    LOCAL = "local"  # a UNIX socket: whoever its directory lets in
    GUEST = "guest"
    API = "api"
    CONDUCTOR = "conductor"
    TASKMANAGER = "taskmanager"
    GATEWAY = "gateway"
    ISSUER = "issuer"
    OPERATOR = "operator"
    BREAKGLASS = "breakglass"  # an emergency, by the consent of two operators
    FEDERATED = "federated"  # a service of another trust domain, whichever it is there


SERVICE_ROLES = frozenset({Role.API, Role.CONDUCTOR, Role.TASKMANAGER, Role.GATEWAY, Role.ISSUER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A verified caller."""

    role: Role
    trust_domain: str = ""
    # Host of a service, name of an operator or incident, id of an instance; of a federated
    # service its kind and host, "gateway/host".
    name: str = ""
    tenant_id: str = ""
    instance_id: str = ""
    serial: str = ""  # hex, lower case
    key_hash: str = ""  # SHA-256 of the SPKI, hex
    generation: int = 0  # of the authority that signed it
    not_valid_before: dt.datetime | None = None
    not_valid_after: dt.datetime | None = None
    certificate_pem: bytes = b""

    @property
    def uri(self) -> str:
        """The SPIFFE ID, or the bare role where there is no certificate."""
        if self.role is Role.GUEST:
            path = f"tenant/{self.tenant_id}/instance/{self.instance_id}"
        elif self.role in (Role.OPERATOR, Role.BREAKGLASS):
            path = f"{self.role}/{self.name}"
        elif self.role in SERVICE_ROLES:
            path = f"service/{self.role}/{self.name}"
        elif self.role is Role.FEDERATED:
            path = f"service/{self.name}"
        else:
            return str(self.role)
        return f"spiffe://{self.trust_domain}/{path}"


ANONYMOUS = Identity(role=Role.ANONYMOUS)
LOCAL = Identity(role=Role.LOCAL)


def guest_uri(trust_domain: str, tenant_id: str, instance_id: str) -> str:
    return f"spiffe://{trust_domain}/tenant/{tenant_id}/instance/{instance_id}"


def service_uri(trust_domain: str, role: Role, host: str) -> str:
    return f"spiffe://{trust_domain}/service/{role}/{host}"


def operator_uri(trust_domain: str, name: str) -> str:
    return f"spiffe://{trust_domain}/operator/{name}"


def breakglass_uri(trust_domain: str, incident: str) -> str:
    return f"spiffe://{trust_domain}/breakglass/{incident}"


def service_dns_name(trust_domain: str, role: Role) -> str:
    """The one DNS SAN of a service; every channel verifies it."""
    return f"{role}.{trust_domain}"


def parse_uri(uri: str, trust_domain: str) -> Identity:
    """Read a SPIFFE ID of `trust_domain`; raises UnauthenticatedError for anything else."""
    match = _URI.match(uri) if len(uri.encode()) <= _MAX_URI_BYTES else None
    if match is None or match["domain"] != trust_domain:
        raise UnauthenticatedError(
            f"certificate names {uri[:_MAX_URI_BYTES]!r}, not an identity of {trust_domain}",
            reason="BAD_IDENTITY",
        )
    if match["instance"]:
        return Identity(
            role=Role.GUEST,
            trust_domain=trust_domain,
            name=match["instance"],
            tenant_id=match["tenant"],
            instance_id=match["instance"],
        )
    if match["service"]:
        return Identity(role=Role(match["service"]), trust_domain=trust_domain, name=match["host"])
    if match["incident"]:
        return Identity(role=Role.BREAKGLASS, trust_domain=trust_domain, name=match["incident"])
    return Identity(role=Role.OPERATOR, trust_domain=trust_domain, name=match["operator"])
