"""Who may do what: Redis's access control list.

A password is kept as "#" and the hexadecimal SHA-256 of it, the one form Redis has.
"""

from __future__ import annotations

import hashlib
import re

from trove_grpc.errors import InvalidRequestError, UnsupportedError
from trove_grpc.gen.common.v1 import engine_pb2

ADMINISTRATOR = "os_admin"  # as Trove's
_MAX_NAME_BYTES = 64
_RESERVED_USERS = frozenset({"default"})
_RESERVED_PREFIX = "os_"
_VERIFIER = re.compile(r"\A#[0-9a-f]{64}\Z", re.ASCII)
# Every key and channel, but nothing that manages the server (@admin) or reaches beyond it
# (@dangerous: MIGRATE opens connections, RESTORE parses foreign bytes). Handed back is what of
# @dangerous a user does to data of their own, and INFO, which clients ask for.
_TENANT_RULES = (
    "~* &* +@all -@admin -@dangerous +info +keys +sort +sort_ro +flushdb +flushall +swapdb"
)


def check_user(spec: engine_pb2.UserSpec) -> None:
    name = spec.name
    if not name or len(name.encode()) > _MAX_NAME_BYTES or not name.isprintable() or " " in name:
        raise InvalidRequestError(
            f"user name {name!r} must have 1 to {_MAX_NAME_BYTES} bytes in UTF-8 and neither "
            "spaces nor control characters",
            subject=name,
        )
    if name in _RESERVED_USERS or name.startswith(_RESERVED_PREFIX):
        raise InvalidRequestError(
            f"user name {name!r} belongs to Redis or its agent; choose another", subject=name
        )
    if not _VERIFIER.match(spec.verifier):
        raise InvalidRequestError(
            f"user {name!r} comes without the SHA-256 of a password", subject=name
        )
    if spec.databases:
        raise UnsupportedError(
            f"user {name!r} is limited to databases, which Redis does not have by name",
            subject=name,
        )


def file_with_administrator(present: bytes, password: bytes) -> bytes:
    """The list's file: nobody by default, the administrator, and the users it had."""
    ours = (b"user default ", f"user {ADMINISTRATOR} ".encode())
    others = [line for line in present.split(b"\n") if line and not line.startswith(ours)]
    digest = hashlib.sha256(password).hexdigest()
    lines = [
        # Off and without a password: nobody is this user. But Redis replays transactions and
        # scripts of its append-only file as it, and would drop what it may not do.
        b"user default reset off ~* &* +@all",
        f"user {ADMINISTRATOR} reset on #{digest} ~* &* +@all".encode(),
        *others,
    ]
    return b"".join(line + b"\n" for line in lines)


def set_user(spec: engine_pb2.UserSpec) -> str:
    """The command that makes the user, or makes it so; everything it had before goes."""
    return f"ACL SETUSER {quote(spec.name)} reset on {spec.verifier} {_TENANT_RULES}"


def quote(text: str) -> str:
    """One argument on a line of redis-cli: every byte but plain ones escaped."""
    plain = (bytes([byte]) for byte in text.encode())
    return '"' + "".join(b.decode() if b.isalnum() else f"\\x{b.hex()}" for b in plain) + '"'
