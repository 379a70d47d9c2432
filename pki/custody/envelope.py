"""A key as it lies in Barbican: sealed before it leaves, under a key that Barbican never sees.

    magic | id of the KEK | SHA-256 of the public key | wrapped DEK | nonce | AES-256-GCM of PKCS#8

The data key is fresh for each envelope and wrapped by the KEK (RFC 3394). Everything before the
nonce, and the name, is authenticated: an envelope that was moved to another name does not open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pki.custody.contract import CustodyError
from pki.custody.private_files import create_private_file, read_private_file

_MAGIC = b"trove-ca-key/1\n"
_KEY_BYTES = 32
_ID_BYTES = 8
_WRAPPED_BYTES = _KEY_BYTES + 8
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = len(_MAGIC) + _ID_BYTES + hashlib.sha256().digest_size + _WRAPPED_BYTES


@dataclass(frozen=True, slots=True)
class Kek:
    """The key that wraps data keys; `source` tells people which file it came from."""

    source: Path
    value: bytes = field(repr=False)

    @property
    def id(self) -> bytes:
        """Tells one KEK from another and nothing about either."""
        return hmac.digest(self.value, b"id of a trove KEK", "sha256")[:_ID_BYTES]


def create_kek(path: Path) -> None:
    """Write a fresh KEK; ConflictError when the file exists."""
    create_private_file(path, base64.b64encode(secrets.token_bytes(_KEY_BYTES)) + b"\n")


def read_kek(path: Path) -> Kek:
    """NotFoundError (KEK_MISSING) when there is none, CustodyError when it is no KEK."""
    try:
        value = base64.b64decode(
            read_private_file(path, reason="KEK_MISSING").strip(), validate=True
        )
    except binascii.Error:
        value = b""
    if len(value) != _KEY_BYTES:
        raise CustodyError(
            f"{path} is not {_KEY_BYTES} bytes in base64; restore it from your backup"
        )
    return Kek(path, value)


def spki_hash(key: ec.EllipticCurvePublicKey) -> bytes:
    return hashlib.sha256(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).digest()


def seal(key: ec.EllipticCurvePrivateKey, name: str, kek: Kek) -> bytes:
    """Encrypt `key` for keeping under `name` and no other."""
    data_key, nonce = secrets.token_bytes(_KEY_BYTES), os.urandom(_NONCE_BYTES)
    header = (
        _MAGIC + kek.id + spki_hash(key.public_key()) + keywrap.aes_key_wrap(kek.value, data_key)
    )
    clear = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    sealed = AESGCM(data_key).encrypt(nonce, clear, header + name.encode())
    return header + nonce + sealed


def unseal(envelope: bytes, name: str, kek: Kek) -> ec.EllipticCurvePrivateKey:
    """Decrypt the key kept under `name`.

    Raises CustodyError: CUSTODY_FOREIGN for what is no envelope of ours, CUSTODY_DAMAGED for one
    that was cut or altered or belongs to another name, CUSTODY_OTHER_KEK.
    """
    if not envelope.startswith(_MAGIC):
        raise CustodyError(
            f"{name} holds something else than a key of ours; find out who stored it, and restore "
            "the key from your backup",
            reason="CUSTODY_FOREIGN",
        )
    damaged = CustodyError(
        f"{name} is cut short, altered, or was stored for another name; restore it from your "
        "backup",
        reason="CUSTODY_DAMAGED",
    )
    if len(envelope) <= _HEADER_BYTES + _NONCE_BYTES + _TAG_BYTES:
        raise damaged
    header, rest = envelope[:_HEADER_BYTES], envelope[_HEADER_BYTES:]
    kek_id, recorded, wrapped = _split(header[len(_MAGIC) :])
    if not hmac.compare_digest(kek_id, kek.id):
        raise CustodyError(
            f"{name} was sealed under another KEK than the one in {kek.source}; restore that file "
            "from the backup of the time the key was stored",
            reason="CUSTODY_OTHER_KEK",
        )
    try:
        data_key = keywrap.aes_key_unwrap(kek.value, wrapped)
        clear = AESGCM(data_key).decrypt(
            rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], header + name.encode()
        )
        key = serialization.load_der_private_key(clear, password=None)
    except (keywrap.InvalidUnwrap, InvalidTag, ValueError) as error:
        raise damaged from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or recorded != spki_hash(key.public_key()):
        raise CustodyError(
            f"{name} holds another key than it says; restore it from your backup",
            reason="CUSTODY_OTHER_KEY",
        )
    return key


def _split(fields: bytes) -> tuple[bytes, bytes, bytes]:
    return fields[:_ID_BYTES], fields[_ID_BYTES:-_WRAPPED_BYTES], fields[-_WRAPPED_BYTES:]
