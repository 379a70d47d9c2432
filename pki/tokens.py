"""What an enrolment token looks like: `trv1.<lookup, 8 bytes>.<secret, 32 bytes>`, base64url.

The secret has 256 bits, so a plain SHA-256 is enough at rest. The lookup part is secret too:
whoever knows it could use up a token's failed attempts.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass

_PREFIX = "trv1"
_TOKEN = re.compile(rf"\A{_PREFIX}\.([A-Za-z0-9_-]{{11}})\.([A-Za-z0-9_-]{{43}})\Z", re.ASCII)
_LOOKUP_BYTES = 8
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """A token in the clear; `repr` shows nothing of it."""

    lookup: str
    secret: bytes

    def __repr__(self) -> str:
        return "EnrolmentToken(…)"

    @property
    def text(self) -> str:
        """What the guest is given."""
        return f"{_PREFIX}.{self.lookup}.{_encode(self.secret)}"

    @property
    def secret_hash(self) -> bytes:
        return hashlib.sha256(self.secret).digest()


def new() -> EnrolmentToken:
    return EnrolmentToken(
        _encode(secrets.token_bytes(_LOOKUP_BYTES)), secrets.token_bytes(_SECRET_BYTES)
    )


def parse(text: str) -> EnrolmentToken | None:
    """The token, or None when the text is none."""
    match = _TOKEN.match(text)
    if match is None:
        return None
    secret = base64.urlsafe_b64decode(match[2] + "=")
    # Of the last character four bits are unused: only one spelling of a secret is the secret.
    return EnrolmentToken(match[1], secret) if _encode(secret) == match[2] else None


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
