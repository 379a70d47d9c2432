"""A request that asks for anything is refused, whatever it asks for."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AttributeOID, NameOID

from pki import csr
from pki.requests import csr_der, new_key, new_request
from trove_grpc.errors import InvalidRequestError

KEY = new_key()
EMPTY = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))


def der(builder: x509.CertificateSigningRequestBuilder, key=KEY) -> bytes:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def tampered(request: bytes) -> bytes:
    return request[:-1] + bytes([request[-1] ^ 1])


def off_curve(request: bytes) -> bytes:
    numbers = KEY.public_key().public_numbers()
    return request.replace(numbers.y.to_bytes(32, "big"), (numbers.y ^ 1).to_bytes(32, "big"))


REFUSED = {
    "a common name": (
        "CSR_SUBJECT",
        lambda: der(
            x509.CertificateSigningRequestBuilder().subject_name(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "victim")])
            )
        ),
    ),
    "another name": (
        "CSR_EXTENSION",
        lambda: der(
            EMPTY.add_extension(
                x509.SubjectAlternativeName([x509.DNSName("gateway.local.trove")]), critical=False
            )
        ),
    ),
    "to be an authority": (
        "CSR_EXTENSION",
        lambda: der(
            EMPTY.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        ),
    ),
    "a challenge password": (
        "CSR_EXTENSION",
        lambda: der(EMPTY.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"secret")),
    ),
    "RSA": (
        "CSR_KEY",
        lambda: der(EMPTY, rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    ),
    "P-384": ("CSR_KEY", lambda: der(EMPTY, ec.generate_private_key(ec.SECP384R1()))),
    "Ed25519": ("CSR_KEY", lambda: der(EMPTY, ed25519.Ed25519PrivateKey.generate())),
    "a broken signature": ("CSR_SIGNATURE", lambda: tampered(csr_der(KEY))),
    "a point off the curve": ("CSR_MALFORMED", lambda: off_curve(csr_der(KEY))),
    "PEM": (
        "CSR_MALFORMED",
        lambda: EMPTY.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
    ),
    "two of them": ("CSR_MALFORMED", lambda: csr_der(KEY) * 2),
    "trailing bytes": ("CSR_MALFORMED", lambda: csr_der(KEY) + b"\0"),
    "half of one": ("CSR_MALFORMED", lambda: csr_der(KEY)[:100]),
    "nothing": ("CSR_MALFORMED", lambda: b""),
    "deep nesting": ("CSR_MALFORMED", lambda: b"\x30\x80" * 2000),
    "100 kB": ("CSR_TOO_LONG", lambda: b"\x30" * 100_000),
}


@pytest.mark.parametrize("case", REFUSED)
def test_request_with_anything_unusual_is_refused(case: str) -> None:
    reason, make = REFUSED[case]
    with pytest.raises(InvalidRequestError) as refused:
        csr.accept(make())
    assert refused.value.reason == reason
    assert "P-256" in refused.value.message


def test_request_of_ours_is_accepted() -> None:
    assert csr.accept(csr_der(KEY)) == KEY.public_key()


def test_new_request_comes_with_its_own_key() -> None:
    key_pem, request = new_request()
    loaded = serialization.load_pem_private_key(key_pem, password=None)
    assert csr.accept(request) == loaded.public_key()
