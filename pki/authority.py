"""Signs. Imported by the one process that holds CA keys, and by nothing else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.orm import Session

from pki import metrics
from pki.custody import Custody, CustodyError
from pki.models import Authority
from pki.profiles import KIND_NAMES, KINDS_BY_NAME, PARENTS, Kind
from pki.store import authorities
from trove_grpc.errors import NotFoundError, TroveError, UnavailableError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import key_hash, serial_hex

# Leaves that peers verify against a root, which they may not know yet. Guests and operators are
# clients alone: listeners verify them against intermediates, which are told before they sign.
_SHOWN_WITH_CROSS = frozenset(
    {trust_pb2.AUTHORITY_KIND_SERVICE, trust_pb2.AUTHORITY_KIND_DATABASE}
)


@dataclass(frozen=True, slots=True)
class Signer:
    """The generation of an authority that signs now. `repr` shows no key."""

    kind: Kind
    generation: int
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    # Certificates of roots by the roots before them, newest first, PEM: what a peer needs that
    # knows an older root alone.
    cross_pem: bytes = b""

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
    chain_pem: bytes  # leaf, intermediate, and where a root is young its cross certificate
    expire_time: dt.datetime


class Authorities:
    """The signing generation of each kind, as the database says it at every signature.

    Several issuers share a database, and any of them may switch generations. Keys are read from
    custody once and kept: those of generations that may sign next are read ahead, so that a
    switch waits for no vault, and a vault that is away stops nobody who signs already.
    """

    def __init__(self, custody: Custody) -> None:
        self._custody = custody
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}

    def signer(self, session: Session, kind: Kind, now: dt.datetime) -> Signer:
        """Raises UnavailableError when no generation of this kind signs or its key is away."""
        name = KIND_NAMES[kind]
        row = authorities.active(session, name)
        if row is None:
            raise UnavailableError(
                f"no active {name} authority; run `trove-pki init`, or rotate it if it is tainted",
                reason="NO_AUTHORITY",
            )
        return self.signer_of(session, row, now)

    def signer_of(self, session: Session, row: Authority, now: dt.datetime) -> Signer:
        """The signer of one generation, whatever its state."""
        kind = KINDS_BY_NAME[row.kind]
        certificate = x509.load_pem_x509_certificate(row.certificate_pem)
        cross = _cross_pem(session, row, now) if kind in _SHOWN_WITH_CROSS else b""
        return Signer(kind, row.generation, certificate, self.key(row), cross)

    def key(self, row: Authority) -> ec.EllipticCurvePrivateKey:
        """The key of a generation, checked against its certificate.

        Raises CustodyError when it is not the right one, UnavailableError when it cannot be read.
        """
        known = self._keys.get(row.key_name)
        if known is None:
            known = self.read(row)
            self._keys[row.key_name] = known
        return known

    def preload(self, rows: Sequence[Authority]) -> None:
        """Read the keys of these generations; raises the first failure when all were tried."""
        failure: TroveError | None = None
        for row in rows:
            try:
                self.key(row)
            except TroveError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def keep_only(self, rows: Sequence[Authority]) -> None:
        """Drop every other key: one that cannot sign again must not lie in memory either."""
        wanted = {row.key_name for row in rows}
        self._keys = {name: key for name, key in self._keys.items() if name in wanted}

    def issue(self, signer: Signer, builder: x509.CertificateBuilder) -> Issued:
        """Sign a leaf that a profile described for this signer."""
        with metrics.SIGN_SECONDS.time():
            certificate = signer.sign(builder)
        metrics.CERTIFICATES.labels(KIND_NAMES[signer.kind]).inc()
        public_key = certificate.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)  # noqa: S101  csr.accept saw to it
        leaf_pem = certificate.public_bytes(serialization.Encoding.PEM)
        return Issued(
            kind=signer.kind,
            generation=signer.generation,
            serial=serial_hex(certificate),
            key_hash=key_hash(public_key),
            chain_pem=leaf_pem + signer.pem + signer.cross_pem,
            expire_time=certificate.not_valid_after_utc,
        )

    def read(self, row: Authority) -> ec.EllipticCurvePrivateKey:
        """Like `key`, but asks custody now and keeps nothing: for roots."""
        try:
            key = self._custody.load(row.key_name)
        except (CustodyError, NotFoundError):
            raise
        except (TroveError, OSError) as error:
            raise UnavailableError(
                f"the key {row.key_name} of the {row.state} {row.kind} authority cannot be read "
                f"from custody: {error}",
                reason="CUSTODY_UNAVAILABLE",
                subject=row.key_name,
            ) from error
        certificate = x509.load_pem_x509_certificate(row.certificate_pem)
        if key.public_key() != certificate.public_key():
            raise CustodyError(
                f"the key {row.key_name} in custody is not the one of its certificate in the "
                "database; restore both from one backup",
                subject=row.key_name,
            )
        return key


def _cross_pem(session: Session, row: Authority, now: dt.datetime) -> bytes:
    """From the root that signed `row` back to the oldest one that still proves anything."""
    kind = KIND_NAMES[PARENTS[KINDS_BY_NAME[row.kind]]]
    root = authorities.find(session, kind, row.signed_by_generation)
    pem = b""
    while root is not None and (cross := root.cross_certificate_pem) is not None:
        root = _older(session, root.kind, cross)
        if root is None or root.state == authorities.TAINTED:
            break
        if x509.load_pem_x509_certificate(root.certificate_pem).not_valid_after_utc <= now:
            break
        pem += cross
    return pem


def _older(session: Session, kind: str, cross_pem: bytes) -> Authority | None:
    """The root that gave this cross certificate; the generation is in its name."""
    issuer = x509.load_pem_x509_certificate(cross_pem).issuer
    for each in authorities.of_kind(session, kind):
        if x509.load_pem_x509_certificate(each.certificate_pem).subject == issuer:
            return each
    return None
