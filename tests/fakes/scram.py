"""SCRAM-SHA-256 verifiers as PostgreSQL stores them (RFC 5803), for ASCII passwords."""

from __future__ import annotations

import base64
import hashlib
import hmac

_ITERATIONS = 4096
_SALT = b"0123456789abcdef"


def verifier(password: str) -> str:
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), _SALT, _ITERATIONS)
    client = hmac.digest(salted, b"Client Key", "sha256")
    server = hmac.digest(salted, b"Server Key", "sha256")
    stored = hashlib.sha256(client).digest()
    salt, stored_text, server_text = (
        base64.b64encode(part).decode() for part in (_SALT, stored, server)
    )
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt}${stored_text}:{server_text}"
