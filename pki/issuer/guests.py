"""Identities of guests: enrolment, renewal in two phases, engine certificates.

Each function is one transaction's work. The certificate is signed before the commit and leaves
after it; whoever lost the reply asks again with the same key and gets the same certificate.
"""

from __future__ import annotations

import datetime as dt
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.orm import Session

from pki import metrics, profiles
from pki.authority import Authorities
from pki.issuer import adoption, ledger, quarantine
from pki.issuer.config import Config
from pki.models import Certificate, Subject, Token
from pki.store import audit, authorities, certificates, subjects, tokens
from pki.tokens import EnrolmentToken
from trove_grpc.errors import (
    ConflictError,
    OverloadedError,
    UnauthenticatedError,
)
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import check_validity, guest_uri, identify, key_hash

_GUEST = profiles.KIND_NAMES[trust_pb2.AUTHORITY_KIND_GUEST]
_DATABASE = profiles.KIND_NAMES[trust_pb2.AUTHORITY_KIND_DATABASE]
# Stands in for a token that is none, so that its refusal takes the same path.
_NO_TOKEN = EnrolmentToken("-" * 11, bytes(32))
_HOUR = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A token that gave nothing. `why` is for the audit; the caller hears one answer."""

    why: str
    token_id: str = field(default="", compare=False)


_USED_BY_ANOTHER = Refusal("used by another key")


class Guests:
    """What the issuer does for guests."""

    def __init__(self, authorities_: Authorities, config: Config) -> None:
        self._authorities = authorities_
        self._config = config

    def enrol(
        self,
        session: Session,
        token: EnrolmentToken | None,
        *,
        instance_id: str,
        public_key: ec.EllipticCurvePublicKey,
        actor: str,
        now: dt.datetime,
    ) -> Certificate | Refusal:
        """Exchange a token for a first certificate.

        A refusal is returned, not raised: counting it must be committed.
        """
        shown = token or _NO_TOKEN
        row = tokens.find(session, shown.lookup)
        expected = row.secret_hash if row is not None else _NO_TOKEN.secret_hash
        is_right = hmac.compare_digest(shown.secret_hash, expected)
        if row is None or not is_right:
            outcome: Certificate | Refusal = Refusal("unknown")
        else:
            outcome = self._redeem(session, row, instance_id, public_key, actor=actor, now=now)
            if outcome == _USED_BY_ANOTHER:
                # Only who knows the secret gets here: it leaked, or the machine was copied.
                metrics.TOKENS_REUSED.inc()
                quarantine.begin(session, instance_id, quarantine.TOKEN, actor=actor, now=now)
        if isinstance(outcome, Refusal):
            tokens.count_failure(session, shown.lookup)
            return Refusal(outcome.why, "" if row is None else row.token_id)
        return outcome

    def renew(
        self,
        session: Session,
        certificate_pem: bytes,
        public_key: ec.EllipticCurvePublicKey,
        now: dt.datetime,
    ) -> Certificate:
        """The guest's next certificate, pending until it is used."""
        present, subject = self._authenticate(session, certificate_pem, now, adopts=True)
        return self.issue_next(
            session, subject, present, public_key, now, actor=present.name, action="renew-guest"
        )

    def issue_next(
        self,
        session: Session,
        subject: Subject,
        present: Certificate,
        public_key: ec.EllipticCurvePublicKey,
        now: dt.datetime,
        *,
        actor: str,
        action: str,
        detail: Mapping[str, str] | None = None,
    ) -> Certificate:
        """The successor of `present`, pending; the same one for the same key while it is good.

        One audit row for each certificate: a guest could ask for the same one all day.
        """
        known = certificates.by_key(session, key_hash(public_key))
        if known is not None:
            is_repeat = known.replaces == present.serial and known.state in certificates.LIVE
            if is_repeat and now < known.expire_time:
                return known
            raise ledger.reused_key(subject.instance_id)
        self._limit(session, present.name, _GUEST, now)
        for other in certificates.live_of_instance(session, subject.instance_id, _GUEST):
            if other is not present and other.state == certificates.PENDING:
                # Asked for with a key that its holder has lost since, or there would be no other.
                ledger.supersede(session, other, reason="never confirmed", now=now)
        issued = self._issue_guest(session, subject, public_key, now=now, replaces=present.serial)
        audit.append(
            session,
            now=now,
            actor=actor,
            action=action,
            subject=subject.instance_id,
            detail={"serial": issued.serial, "replaces": present.serial, **(detail or {})},
        )
        return issued

    def confirm(self, session: Session, certificate_pem: bytes, now: dt.datetime) -> None:
        """Make the shown certificate the current one; the one before it fades."""
        self._authenticate(session, certificate_pem, now, adopts=True)

    def issue_engine(
        self,
        session: Session,
        certificate_pem: bytes,
        public_key: ec.EllipticCurvePublicKey,
        now: dt.datetime,
    ) -> Certificate:
        """A certificate for the engine's listener, with names from the subject's record."""
        present, subject = self._authenticate(session, certificate_pem, now)
        name = f"engine/{subject.instance_id}"
        known = certificates.by_key(session, key_hash(public_key))
        if known is not None:
            if known.name == name and known.expire_time > now:
                return known
            raise ledger.reused_key(subject.instance_id)
        if not subject.engine_dns_names and not subject.engine_ip_addresses:
            raise ConflictError(
                f"no name or address of the engine of {subject.instance_id} is registered",
                reason="NO_ENGINE_NAMES",
                subject=subject.instance_id,
            )
        self._limit(session, name, _DATABASE, now)
        signer = self._authorities.signer(session, trust_pb2.AUTHORITY_KIND_DATABASE, now)
        builder = profiles.engine(
            public_key,
            signer.certificate,
            dns_names=subject.engine_dns_names,
            ip_addresses=subject.engine_ip_addresses,
            lifetime=self._config.engine_lifetime,
            now=now,
            margin=self._config.authority_margin,
        )
        certificate = ledger.record(
            session,
            self._authorities.issue(signer, builder),
            name=name,
            state=certificates.CURRENT,
            now=now,
            instance_id=subject.instance_id,
            enrol_epoch=subject.enrol_epoch,
        )
        audit.append(
            session,
            now=now,
            actor=present.name,
            action="issue-engine-certificate",
            subject=subject.instance_id,
            detail={"serial": certificate.serial},
        )
        return certificate

    def _redeem(
        self,
        session: Session,
        row: Token,
        instance_id: str,
        public_key: ec.EllipticCurvePublicKey,
        *,
        actor: str,
        now: dt.datetime,
    ) -> Certificate | Refusal:
        if (why := self._unusable(row, instance_id)) is not None:
            return Refusal(why)
        try:
            subject = subjects.lock_active(session, instance_id)
            ledger.refuse_denied(
                session, now, instance_id=instance_id, tenant_id=subject.tenant_id
            )
        except (ConflictError, UnauthenticatedError) as error:
            return Refusal(error.reason.lower())
        session.refresh(row)  # what it says under the subject's lock is final
        wanted = key_hash(public_key)
        if row.used_at is not None:
            return self._repeat(session, row, wanted, now)
        if now >= row.expire_time:
            return Refusal("expired")
        if certificates.by_key(session, wanted) is not None:
            raise ledger.reused_key(instance_id)
        if not tokens.take(session, row.token_id, wanted, now):
            return Refusal("used")
        certificate = self._first(session, subject, public_key, now)
        # Here, not for a reply that is asked for again: a guest could ask all day.
        audit.append(
            session,
            now=now,
            actor=actor,
            action="enrol-guest",
            subject=instance_id,
            detail={"serial": certificate.serial, "token": row.token_id},
        )
        return certificate

    def _unusable(self, row: Token, instance_id: str) -> str | None:
        if row.attempts >= self._config.token_max_failures:
            return "locked"
        if row.instance_id != instance_id:
            return "foreign"
        return "void" if row.void_time is not None else None

    def _first(
        self,
        session: Session,
        subject: Subject,
        public_key: ec.EllipticCurvePublicKey,
        now: dt.datetime,
    ) -> Certificate:
        """The first certificate of a machine; what an earlier machine held ends at once."""
        previous = certificates.live_of_instance(session, subject.instance_id, _GUEST)
        for certificate in previous:
            ledger.supersede(session, certificate, reason="enrolled anew", now=now)
        if previous:
            subject.enrol_epoch += 1
        # Whoever could have the token minted has seen to it: what is enrolled now is the guest.
        quarantine.end(session, subject)
        return self._issue_guest(session, subject, public_key, now=now)

    def _repeat(
        self, session: Session, row: Token, wanted: str, now: dt.datetime
    ) -> Certificate | Refusal:
        """The lost reply again: same key, soon, and never used since."""
        if row.used_by_key != wanted:
            return _USED_BY_ANOTHER
        assert row.used_at is not None  # noqa: S101  the caller asked
        certificate = certificates.by_key(session, wanted)
        if (
            certificate is None
            or certificate.state != certificates.PENDING
            or now - row.used_at >= self._config.token_retry_window
        ):
            return Refusal("used")
        return certificate

    def _authenticate(
        self,
        session: Session,
        certificate_pem: bytes,
        now: dt.datetime,
        *,
        adopts: bool = False,
    ) -> tuple[Certificate, Subject]:
        """The record of a certificate that its holder shows, and its live subject.

        A gateway passes the certificate on, so nothing about it is taken on trust: it must be,
        byte for byte, one we issued. The first use of a pending one promotes it (SPIRE's rule).
        `adopts` takes one up that a rebuilt database does not know.

        Raises UnauthenticatedError, or ConflictError (STALE_SERIAL, INSTANCE_RETIRED).
        """
        shown = identify(certificate_pem, authorities.bundle(session))
        check_validity(shown, now)
        row = certificates.by_serial(session, shown.serial)
        if row is None and adopts:
            row = adoption.adopt_guest(session, shown, now)
        if (
            row is None
            or row.instance_id is None
            or row.kind != _GUEST
            or x509.load_pem_x509_certificate(row.chain_pem)
            != x509.load_pem_x509_certificate(certificate_pem)
        ):
            raise UnauthenticatedError(
                f"certificate {shown.serial} was not issued here",
                reason="UNKNOWN_CERTIFICATE",
                subject=shown.uri,
            )
        subject = subjects.lock_active(session, row.instance_id)
        session.refresh(row)
        if row.state == certificates.SUPERSEDED:
            # Before denials: a superseded serial in use points to a clone or a restored snapshot.
            raise ConflictError(
                f"certificate {row.serial} of instance {row.instance_id} was superseded; "
                "enrol again with a new token",
                reason="STALE_SERIAL",
                subject=row.instance_id,
            )
        ledger.refuse_denied(
            session,
            now,
            certificate=row,
            instance_id=row.instance_id,
            tenant_id=subject.tenant_id,
        )
        quarantine.refuse(subject)
        if row.state == certificates.PENDING:
            self._promote(session, row, now)
        return row, subject

    def _promote(self, session: Session, row: Certificate, now: dt.datetime) -> None:
        assert row.instance_id is not None  # noqa: S101  a guest's certificate
        for other in certificates.live_of_instance(session, row.instance_id, _GUEST):
            if other is not row:
                ledger.supersede(
                    session,
                    other,
                    reason="superseded by renewal",
                    now=now,
                    grace=self._config.superseded_grace,
                )
        ledger.promote(session, row, now)

    def _issue_guest(
        self,
        session: Session,
        subject: Subject,
        public_key: ec.EllipticCurvePublicKey,
        *,
        now: dt.datetime,
        replaces: str | None = None,
    ) -> Certificate:
        signer = self._authorities.signer(session, trust_pb2.AUTHORITY_KIND_GUEST, now)
        builder = profiles.guest(
            public_key,
            signer.certificate,
            trust_domain=self._config.trust_domain,
            tenant_id=subject.tenant_id,
            instance_id=subject.instance_id,
            lifetime=self._config.guest_lifetime,
            now=now,
            margin=self._config.authority_margin,
        )
        return ledger.record(
            session,
            self._authorities.issue(signer, builder),
            name=guest_uri(self._config.trust_domain, subject.tenant_id, subject.instance_id),
            state=certificates.PENDING,
            now=now,
            instance_id=subject.instance_id,
            enrol_epoch=subject.enrol_epoch,
            replaces=replaces,
        )

    def _limit(self, session: Session, name: str, kind: str, now: dt.datetime) -> None:
        most = self._config.certificates_per_hour
        if certificates.count_issued(session, name, kind, now - _HOUR) >= most:
            raise OverloadedError(
                f"{name} got {most} certificates within an hour; retry later",
                reason="TOO_MANY_CERTIFICATES",
                subject=name,
                retry_after=_HOUR / dt.timedelta(seconds=1) / most,
            )
