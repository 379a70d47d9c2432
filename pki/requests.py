"""A key and its certificate request, for guests and services alike.

The request carries a public key and the proof of owning its private half, nothing else: names
come from what the issuer knows. A guest imports this, so it stays small.
"""

from __future__ import annotations

import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key: the one kind every peer's TLS stack accepts (design: pki 0.6)."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 PEM, not encrypted: file permissions guard it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The key of `key_pem`; raises ValueError for anything but an elliptic-curve key."""
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic-curve key")  # noqa: TRY004  a bad file, not a bad type
    return key


def csr_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request with an empty subject and no extensions, DER."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def new_request() -> tuple[bytes, bytes]:
    """A fresh key (PEM) and its request (DER). Store the key before the request leaves."""
    key = new_key()
    return key_pem(key), csr_der(key)


def request(pem: bytes | None = None) -> tuple[bytes, bytes]:
    """The key of `pem`, or a fresh one, as PEM, and its request as DER."""
    return (pem, csr_der(load_key(pem))) if pem else new_request()


def main() -> int:
    """`python -m pki.requests`: an agent's key work, in a process that ends with it.

    A key comes on standard input, or nothing for a fresh one. The answer: the key's length in four
    bytes, the key, the request.
    """
    key, csr = request(sys.stdin.buffer.read())
    sys.stdout.buffer.write(len(key).to_bytes(4, "big") + key + csr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
