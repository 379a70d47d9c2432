"""Where Barbican is and how to sign in there."""

from __future__ import annotations

import datetime as dt
import ipaddress
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from trove_grpc.errors import InvalidRequestError

_INTERFACES = ("public", "internal", "admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class BarbicanSettings:
    """Durations are seconds in TOML. Secrets are paths of files of mode 0600."""

    auth_url: str  # Keystone's, with its version, e.g. "https://keystone.example:5000/v3"
    credential_file: Path  # JSON with `id` and `secret` of an application credential
    kek_file: Path  # wraps every key before it leaves; keep it and its backups out of Barbican
    region: str = "regionOne"  # names the Barbican in Keystone's catalogue
    interface: str = "internal"  # of the catalogue: public, internal or admin
    ca_file: Path | None = None  # trusted for both services; the system's bundle without it
    timeout: dt.timedelta = dt.timedelta(seconds=10)  # for each connection and each answer

    def __post_init__(self) -> None:
        refuse_plaintext(self.auth_url, "barbican.auth_url")
        if self.interface not in _INTERFACES:
            raise InvalidRequestError(
                f"barbican.interface {self.interface!r} must be one of {', '.join(_INTERFACES)}"
            )
        if self.timeout <= dt.timedelta(0):
            raise InvalidRequestError("barbican.timeout must be more than 0")


def refuse_plaintext(url: str, what: str) -> None:
    """Demand TLS, except on the loopback; raises InvalidRequestError."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(parts.hostname or ""):
        return
    raise InvalidRequestError(f"{what} {url!r} must begin with https://")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
