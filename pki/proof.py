"""Proof of an old key, for a guest whose certificate expired while it was off.

What is signed names everything the answer depends on: the issuer's number, so that it is fresh;
the request, so that nobody puts another key into it; the instance.
"""

from __future__ import annotations

import hashlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pki import requests

_LENGTH_BYTES = 4


def statement(nonce: bytes, csr_der: bytes, instance_id: str) -> bytes:
    """The nonce, SHA-256(csr) and the instance id, of which only the last has no fixed length."""
    return nonce + hashlib.sha256(csr_der).digest() + instance_id.encode()


def sign(key_pem: bytes, nonce: bytes, csr_der: bytes, instance_id: str) -> bytes:
    """ECDSA with SHA-256, DER."""
    key = requests.load_key(key_pem)
    return key.sign(statement(nonce, csr_der, instance_id), ec.ECDSA(hashes.SHA256()))


def holds(
    public_key: ec.EllipticCurvePublicKey,
    signature: bytes,
    *,
    nonce: bytes,
    csr_der: bytes,
    instance_id: str,
) -> bool:
    """Whether the signature is that of this key over exactly this."""
    try:
        public_key.verify(
            signature, statement(nonce, csr_der, instance_id), ec.ECDSA(hashes.SHA256())
        )
    except InvalidSignature:
        return False
    return True


def unpack(data: bytes) -> list[bytes]:
    """Byte strings, each after its length in four bytes."""
    parts = []
    while data:
        end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
        parts.append(data[_LENGTH_BYTES:end])
        data = data[end:]
    return parts


def main() -> int:
    """`python -m pki.proof`: an agent's signature, in a process that ends with it.

    Key (PEM), nonce, request and instance id come packed on standard input; the signature goes to
    standard output. A key in a command line or an environment could be read by others.
    """
    key_pem, nonce, csr_der, instance_id = unpack(sys.stdin.buffer.read())
    sys.stdout.buffer.write(sign(key_pem, nonce, csr_der, instance_id.decode()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
