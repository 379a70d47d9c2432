"""Our small reader of certificates, held to what `cryptography` says of the same ones."""

from __future__ import annotations

import base64
import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from trove_grpc import leaves

NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "n" * 60)])
NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)


def certificate(serial: int, after: dt.datetime, *, names: int = 1) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    uris = [x509.UniformResourceIdentifier(f"spiffe://x/{n}") for n in range(names)]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(NAME)
        .serial_number(serial)
        .not_valid_before(NOW)
        .not_valid_after(after)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName(uris), critical=True)
        .sign(key, hashes.SHA256())
    )


@pytest.mark.parametrize("serial", [1, 127, 128, 255, 256, 2**159 - 1, 0x80FF])
@pytest.mark.parametrize("year", [2027, 2049, 2050, 9999])
@pytest.mark.parametrize("names", [1, 40])
def test_serial_and_dates_are_read_as_cryptography_reads_them(serial, year, names):
    made = certificate(serial, dt.datetime(year, 2, 3, 4, 5, 6, tzinfo=dt.UTC), names=names)
    facts = leaves.read(made.public_bytes(Encoding.PEM))
    assert facts.serial == f"{made.serial_number:x}"
    assert facts.not_valid_before == made.not_valid_before_utc
    assert facts.not_valid_after == made.not_valid_after_utc


def test_the_first_certificate_of_a_chain_counts_and_a_key_before_it_does_not():
    first, second = (certificate(n, NOW + dt.timedelta(days=n)) for n in (3, 4))
    pem = b"-----BEGIN PRIVATE KEY-----\nMIG=\n-----END PRIVATE KEY-----\n"
    for made in (first, second):
        pem += made.public_bytes(Encoding.PEM)
    assert leaves.read(pem).serial == "3"


@pytest.mark.parametrize("junk", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE"])
def test_what_is_no_certificate_is_refused(junk):
    with pytest.raises(ValueError, match="PEM"):
        leaves.read(junk)


def test_every_truncation_is_refused():
    der = certificate(7, NOW + dt.timedelta(days=1)).public_bytes(Encoding.DER)
    for length in range(80):
        body = base64.encodebytes(der[:length])
        with pytest.raises(ValueError, match=r"PEM|DER"):
            leaves.read(b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n")
