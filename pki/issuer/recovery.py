"""Recovery: the next certificate of a guest that was off while its last one expired.

The expired certificate proves who the guest was, its key that it still is, and our records that
nothing has happened since that would forbid it: a certificate has to be the instance's latest,
not denied, of an authority that was never compromised, and not expired for longer than the grace.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification
from sqlalchemy.orm import Session

from pki import profiles, proof
from pki.issuer import adoption, ledger, quarantine
from pki.issuer.config import Config
from pki.issuer.guests import Guests
from pki.models import Certificate, Subject
from pki.store import authorities, certificates, subjects
from trove_grpc.errors import ConflictError, UnauthenticatedError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import Identity, Role, identify

_GUEST = profiles.KIND_NAMES[trust_pb2.AUTHORITY_KIND_GUEST]
_SECOND = dt.timedelta(seconds=1)
_MAX_CHAIN_BYTES = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a guest showed; its nonce has been redeemed."""

    instance_id: str
    expired_chain_pem: bytes
    nonce: bytes
    csr_der: bytes
    signature: bytes
    public_key: ec.EllipticCurvePublicKey  # of the request


class Recovery:
    """Judges recoveries. `recover` is one transaction's work."""

    def __init__(self, guests: Guests, config: Config) -> None:
        self._guests = guests
        self._config = config

    def recover(
        self, session: Session, request: Request, *, actor: str, now: dt.datetime
    ) -> Certificate:
        """The next certificate, pending until it is used; the same one for the same key.

        Raises UnauthenticatedError or ConflictError, each with a reason of its own.
        """
        shown = self._verify(session, request)
        row = certificates.by_serial(session, shown.serial)
        if row is None:
            row = adoption.adopt_guest(session, shown, now)
        if row is None or row.kind != _GUEST or not _is_same_leaf(row, request):
            raise UnauthenticatedError(
                f"certificate {shown.serial} was not issued here",
                reason="UNKNOWN_CERTIFICATE",
                subject=shown.uri,
            )
        subject = subjects.lock_active(session, shown.instance_id)
        session.refresh(row)
        if row.state == certificates.SUPERSEDED:
            raise ConflictError(
                f"certificate {row.serial} of instance {shown.instance_id} has a successor that "
                "was used; enrol again with a new token",
                reason="STALE_SERIAL",
                subject=shown.instance_id,
            )
        ledger.refuse_denied(
            session,
            now,
            certificate=row,
            instance_id=subject.instance_id,
            tenant_id=subject.tenant_id,
        )
        quarantine.refuse(subject)
        self._check_age(row, subject, now)
        return self._guests.issue_next(
            session,
            subject,
            row,
            request.public_key,
            now,
            actor=actor,
            action="recover-guest",
            detail={"expired": row.expire_time.isoformat(timespec="seconds")},
        )

    def _verify(self, session: Session, request: Request) -> Identity:
        """Who holds the key of the shown certificate; says nothing about our records."""
        if len(request.expired_chain_pem) > _MAX_CHAIN_BYTES:
            raise _bad_chain("it is too long")
        known = authorities.bundle(session, states=authorities.EVER_IN_BUNDLE)
        shown = identify(request.expired_chain_pem, known)
        if shown.role is not Role.GUEST or shown.instance_id != request.instance_id:
            raise UnauthenticatedError(
                f"the certificate is not one of instance {request.instance_id}",
                reason="BAD_IDENTITY",
                subject=shown.uri,
            )
        leaf = x509.load_pem_x509_certificate(request.expired_chain_pem)
        authority = next(
            each
            for each in known.authorities
            if each.kind == trust_pb2.AUTHORITY_KIND_GUEST and each.generation == shown.generation
        )
        issuer = x509.load_pem_x509_certificate(authority.certificate_pem)
        # At a moment inside its own validity: that it has expired is why it is here.
        policy = verification.PolicyBuilder().store(verification.Store([issuer]))
        verifier = policy.time(leaf.not_valid_after_utc - _SECOND).build_client_verifier()
        try:
            verifier.verify(leaf, [])
        except verification.VerificationError as error:
            raise _bad_chain("it does not verify") from error
        key = leaf.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101  `identify` saw to it
        if not proof.holds(
            key,
            request.signature,
            nonce=request.nonce,
            csr_der=request.csr_der,
            instance_id=request.instance_id,
        ):
            raise UnauthenticatedError(
                "the signature is not that of the certificate's key",
                reason="BAD_PROOF",
                subject=shown.uri,
            )
        if authority.state == trust_pb2.AUTHORITY_STATE_TAINTED:
            raise UnauthenticatedError(
                f"authority {_GUEST}/{shown.generation} was compromised; enrol with a new token",
                reason="AUTHORITY_TAINTED",
                subject=shown.uri,
            )
        return shown

    def _check_age(self, row: Certificate, subject: Subject, now: dt.datetime) -> None:
        if now < row.expire_time:
            raise ConflictError(
                f"certificate {row.serial} is good until {row.expire_time:%FT%TZ}, it is "
                f"{now:%FT%TZ}; check the guest's clock",
                reason="NOT_EXPIRED",
                subject=row.instance_id or "",
            )
        is_let_in = subject.recovery_until_time is not None and now <= subject.recovery_until_time
        if now > row.expire_time + self._config.recovery_grace and not is_let_in:
            raise ConflictError(
                f"certificate {row.serial} expired at {row.expire_time:%FT%TZ}, more than "
                f"{self._config.recovery_grace} ago; an operator lets it in "
                f"(`trove-pki agents allow-recovery {row.instance_id}`), or it enrols with a new "
                "token",
                reason="RECOVERY_TOO_LATE",
                subject=row.instance_id or "",
            )


def _is_same_leaf(row: Certificate, request: Request) -> bool:
    return x509.load_pem_x509_certificate(row.chain_pem) == x509.load_pem_x509_certificate(
        request.expired_chain_pem
    )


def _bad_chain(problem: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"certificate refused: {problem}", reason="BAD_CHAIN")
