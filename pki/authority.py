"""Signs. Imported by the one process that holds CA keys, and by nothing else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pki import metrics
from pki.profiles import KIND_NAMES, Kind
from trove_grpc.errors import UnavailableError
from trove_grpc.identity import key_hash, serial_hex


@dataclass(frozen=True, slots=True)
class Signer:
    """The generation of an authority that signs now. `repr` shows no key."""

    kind: Kind
    generation: int
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"Signer({KIND_NAMES[self.kind]} g{self.generation})"

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Issued:
    """A leaf with what the record of it needs."""

    kind: Kind
    generation: int
    serial: str
    key_hash: str
    chain_pem: bytes  # leaf, intermediate
    expire_time: dt.datetime


class Authorities:
    """The signing generation of each kind."""

    def __init__(self, signers: Mapping[Kind, Signer]) -> None:
        self._signers = dict(signers)

    def signer(self, kind: Kind) -> Signer:
        """Raises UnavailableError when no generation of this kind signs."""
        try:
            return self._signers[kind]
        except KeyError:
            raise UnavailableError(
                f"no active {KIND_NAMES[kind]} authority; run `trove-pki init`"
            ) from None

    def issue(self, kind: Kind, builder: x509.CertificateBuilder) -> Issued:
        """Sign a leaf that a profile described."""
        signer = self.signer(kind)
        certificate = signer.sign(builder)
        metrics.CERTIFICATES.labels(KIND_NAMES[kind]).inc()
        public_key = certificate.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)  # noqa: S101  csr.accept saw to it
        return Issued(
            kind=kind,
            generation=signer.generation,
            serial=serial_hex(certificate),
            key_hash=key_hash(public_key),
            chain_pem=certificate.public_bytes(serialization.Encoding.PEM) + signer.pem,
            expire_time=certificate.not_valid_after_utc,
        )
