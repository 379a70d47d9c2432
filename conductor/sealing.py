"""AES-GCM sealing of what a record keeps secret, with a key that is never in the database.

The record's id is authenticated with the text, so sealed bytes copied to another record do not
open.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trove_grpc.errors import UnavailableError
from trove_grpc.tls import write_atomically

_KEY_BYTES = 32
_NONCE_BYTES = 12  # NIST SP 800-38D


class Sealer:
    """Seals and opens short texts."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, plaintext: bytes, *, record_id: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plaintext, record_id.encode())

    def open(self, sealed: bytes, *, record_id: str) -> bytes:
        """Raise UnavailableError, reason SEALED_BY_ANOTHER_KEY, if it was not sealed by us."""
        nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, text, record_id.encode())
        except (InvalidTag, ValueError) as error:  # ValueError: cut short
            raise UnavailableError(
                f"the secrets of {record_id} were sealed with another key; "
                "restore the conductor's sealing_key_file",
                reason="SEALED_BY_ANOTHER_KEY",
                subject=record_id,
            ) from error


def load_sealer(path: Path) -> Sealer:
    """Read the key, or make it if there is no such file.

    Raises UnavailableError for a file that others can read or that is no key.
    """
    if not path.exists() and not path.is_symlink():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, os.urandom(_KEY_BYTES), mode=0o600)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            key = file.read(_KEY_BYTES + 1)
    except OSError as error:
        raise UnavailableError(f"cannot read the sealing key {path}: {error.strerror}") from error
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise UnavailableError(
            f"the sealing key {path} must belong to this process's user and be 0600; "
            f"`chmod 600 {path}` if nobody else has read it"
        )
    if len(key) != _KEY_BYTES:
        raise UnavailableError(f"the sealing key {path} is not {_KEY_BYTES} bytes long")
    return Sealer(key)
