"""Passwords become the engine's own verifier here, before the first RPC.

MariaDB keeps the SHA-1 of the password's SHA-1 (mysql_native_password) and takes it ready-made:
the one verifier that every client of the MySQL protocol and every server of the family knows.

PostgreSQL keeps SCRAM-SHA-256 verifiers (RFC 5803) and takes ready-made ones in CREATE ROLE.
Password preparation follows PostgreSQL's pg_saslprep(), client and server alike: SASLprep
(RFC 4013), and where that forbids the password, its bytes as they are.

Redis keeps "#" and the SHA-256 of the password, unsalted: it has no other form. What a guess
costs then depends on the password alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import stringprep
import unicodedata

# PostgreSQL's default scram_iterations; the password never leaves this process, so that a
# slower verifier would only slow every login.
_ITERATIONS = 4096
_SALT_BYTES = 16

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,  # not assigned in Unicode 3.2
)


def scram_sha_256_verifier(password: str, *, salt: bytes | None = None) -> str:
    """The verifier as PostgreSQL stores it; `salt` is given by tests alone."""
    salt = salt or secrets.token_bytes(_SALT_BYTES)
    salted = hashlib.pbkdf2_hmac("sha256", prepare(password).encode(), salt, _ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return (
        f"SCRAM-SHA-256${_ITERATIONS}:{_base64(salt)}${_base64(stored_key)}:{_base64(server_key)}"
    )


def mysql_native_password_verifier(password: str) -> str:
    """What PASSWORD() answers; without salt, so that equal passwords are seen to be equal."""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()


def redis_sha_256_verifier(password: str) -> str:
    """The password's hash as ACL SETUSER takes it."""
    return "#" + hashlib.sha256(password.encode()).hexdigest()


def prepare(password: str) -> str:
    """SASLprep where it is allowed, else the password itself."""
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in password
        # U+200B stands in both tables; PostgreSQL makes it a space.
        if stringprep.in_table_c12(character) or not stringprep.in_table_b1(character)
    )
    if not mapped or any(_is_prohibited(character) for character in mapped):
        return password
    prepared = unicodedata.normalize("NFKC", mapped)
    return prepared if _is_one_directional(prepared) else password


def _is_prohibited(character: str) -> bool:
    return any(contains(character) for contains in _PROHIBITED)


def _is_one_directional(text: str) -> bool:
    """RFC 3454 section 6: text with right-to-left characters begins and ends with one."""
    if not any(stringprep.in_table_d1(character) for character in text):
        return True
    return (
        not any(stringprep.in_table_d2(character) for character in text)
        and stringprep.in_table_d1(text[0])
        and stringprep.in_table_d1(text[-1])
    )


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
