"""Where Keystone is and how far its word is kept."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from trove_grpc.errors import InvalidRequestError

# Longer, and a revoked token would go on for more than anybody expects.
_LONGEST_CACHE = dt.timedelta(seconds=300)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeystoneSettings:
    """The table `keystone` of the settings; durations are seconds in TOML."""

    # Identity API with its version, e.g. "https://keystone.example:5000/v3".
    auth_url: str
    # JSON, of mode 0600: an application credential (`id`, `secret`) or a user (`username`,
    # `password`, `project`, and where they are not "Default" `user_domain`, `project_domain`).
    # It needs the role `service`. Read at every sign-in, so a new one needs no restart.
    credential_file: Path
    # Trusted for Keystone instead of the system's bundle.
    ca_file: Path | None = None
    # What a client without a token is told to use; empty: auth_url.
    www_authenticate_uri: str = ""
    # How long Keystone's word is believed: a revoked token stops within it. At most 300.
    cache: dt.timedelta = dt.timedelta(seconds=300)
    # The same for a token that is none: short, a token can be in use before all Keystones know it.
    negative_cache: dt.timedelta = dt.timedelta(seconds=10)
    # Tokens remembered of each kind, good and bad; some 1 KiB each.
    cache_size: int = 10_000
    # How long Keystone may take for one answer, and how many are asked for at a time.
    timeout: dt.timedelta = dt.timedelta(seconds=5)
    connections: int = 20
    # Roles, beside `admin`, that make an administrator.
    admin_roles: tuple[str, ...] = ()
    # Roles that an X-Service-Token must have one of for its user's token to count when expired.
    service_token_roles: tuple[str, ...] = ("service",)

    def __post_init__(self) -> None:
        _refuse_plaintext(self.auth_url)
        if not dt.timedelta(0) <= self.cache <= _LONGEST_CACHE:
            raise InvalidRequestError(
                "keystone.cache must be 0 to 300 seconds: so long a revoked token goes on"
            )
        if not dt.timedelta(0) <= self.negative_cache <= _LONGEST_CACHE:
            raise InvalidRequestError("keystone.negative_cache must be 0 to 300 seconds")
        if self.timeout <= dt.timedelta(0) or self.cache_size < 1 or self.connections < 1:
            raise InvalidRequestError(
                "keystone.timeout, keystone.cache_size and keystone.connections must be positive"
            )


def _refuse_plaintext(url: str) -> None:
    """Tokens are as good as passwords: TLS everywhere but on the loopback."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(parts.hostname or ""):
        return
    raise InvalidRequestError(f"keystone.auth_url {url!r} must begin with https://")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
