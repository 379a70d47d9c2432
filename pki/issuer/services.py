"""Identities of services and operators. Each function is one transaction's work."""

from __future__ import annotations

import datetime as dt

from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.orm import Session

from pki import profiles
from pki.authority import Authorities
from pki.issuer import adoption, ledger
from pki.issuer.config import Config
from pki.models import Certificate
from pki.store import audit, certificates, services
from trove_grpc.errors import ConflictError, UnauthenticatedError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import Identity, Role, key_hash, operator_uri, service_uri


class Services:
    """What the issuer does for its own kind."""

    def __init__(self, authorities: Authorities, config: Config) -> None:
        self._authorities = authorities
        self._config = config

    def enrol(
        self,
        session: Session,
        *,
        role: Role,
        host: str,
        public_key: ec.EllipticCurvePublicKey,
        actor: str,
        now: dt.datetime,
    ) -> Certificate:
        """A service's certificate, in force at once; older ones of that name live on."""
        name = service_uri(self._config.trust_domain, role, host)
        if (known := self._same(session, public_key, name, now)) is not None:
            return known
        certificate = self._issue(
            session, role, host, public_key, state=certificates.CURRENT, replaces=None, now=now
        )
        self._audit(session, actor, "enrol-service", certificate, now)
        return certificate

    def renew(
        self,
        session: Session,
        caller: Identity,
        public_key: ec.EllipticCurvePublicKey,
        now: dt.datetime,
    ) -> Certificate:
        """The caller's next certificate, pending until it is first used towards the issuer."""
        present = self.authenticate(session, caller, now)
        if (known := self._same(session, public_key, present.name, now)) is not None:
            return known
        certificate = self._issue(
            session,
            caller.role,
            caller.name,
            public_key,
            state=certificates.PENDING,
            replaces=present.serial,
            now=now,
        )
        self._audit(session, caller.uri, "renew-service", certificate, now)
        return certificate

    def authenticate(self, session: Session, caller: Identity, now: dt.datetime) -> Certificate:
        """The record of the caller's certificate; its first use promotes it.

        Raises UnauthenticatedError, or ConflictError (STALE_SERIAL).
        """
        row = certificates.by_serial(session, caller.serial)
        if row is None:
            row = adoption.adopt_service(session, caller, now)
        if row is None:
            raise UnauthenticatedError(
                f"certificate {caller.serial} was not issued here",
                reason="UNKNOWN_CERTIFICATE",
                subject=caller.uri,
            )
        if row.state == certificates.SUPERSEDED:
            raise ConflictError(
                f"certificate {row.serial} of {row.name} was superseded; enrol the service again",
                reason="STALE_SERIAL",
                subject=row.name,
            )
        ledger.refuse_denied(session, now, certificate=row)
        if row.state == certificates.PENDING:
            ledger.promote(session, row, now)
            old = certificates.by_serial(session, row.replaces) if row.replaces else None
            if old is not None and old.state in certificates.LIVE:
                ledger.supersede(
                    session,
                    old,
                    reason="superseded by renewal",
                    now=now,
                    grace=self._config.superseded_grace,
                )
        return row

    def saw(
        self, session: Session, caller: Identity, held_bundle_version: int, now: dt.datetime
    ) -> None:
        """Take note of the bundle and the certificate that a service holds.

        Raises what `authenticate` does.
        """
        present = self.authenticate(session, caller, now)
        services.saw(
            session,
            present.name,
            serial=present.serial,
            held_bundle_version=held_bundle_version,
            now=now,
        )

    def issue_operator(
        self,
        session: Session,
        *,
        name: str,
        lifetime: dt.timedelta,
        public_key: ec.EllipticCurvePublicKey,
        actor: str,
        now: dt.datetime,
    ) -> Certificate:
        uri = operator_uri(self._config.trust_domain, name)
        if (known := self._same(session, public_key, uri, now)) is not None:
            return known
        signer = self._authorities.signer(session, trust_pb2.AUTHORITY_KIND_OPERATOR, now)
        builder = profiles.operator(
            public_key,
            signer.certificate,
            trust_domain=self._config.trust_domain,
            name=name,
            lifetime=min(lifetime, self._config.operator_lifetime),
            now=now,
            margin=self._config.authority_margin,
        )
        issued = self._authorities.issue(signer, builder)
        certificate = ledger.record(session, issued, name=uri, state=certificates.CURRENT, now=now)
        self._audit(session, actor, "issue-operator-certificate", certificate, now)
        return certificate

    def _same(
        self,
        session: Session,
        public_key: ec.EllipticCurvePublicKey,
        name: str,
        now: dt.datetime,
    ) -> Certificate | None:
        """The certificate this key has already, for a caller whose reply was lost."""
        known = certificates.by_key(session, key_hash(public_key))
        if known is None:
            return None
        if known.name != name or known.state not in certificates.LIVE or known.expire_time <= now:
            raise ledger.reused_key(name)
        return known

    def _issue(
        self,
        session: Session,
        role: Role,
        host: str,
        public_key: ec.EllipticCurvePublicKey,
        *,
        state: str,
        replaces: str | None,
        now: dt.datetime,
    ) -> Certificate:
        signer = self._authorities.signer(session, trust_pb2.AUTHORITY_KIND_SERVICE, now)
        builder = profiles.service(
            public_key,
            signer.certificate,
            trust_domain=self._config.trust_domain,
            role=role,
            host=host,
            lifetime=self._config.service_lifetime,
            now=now,
            margin=self._config.authority_margin,
        )
        return ledger.record(
            session,
            self._authorities.issue(signer, builder),
            name=service_uri(self._config.trust_domain, role, host),
            state=state,
            now=now,
            replaces=replaces,
        )

    def _audit(
        self,
        session: Session,
        actor: str,
        action: str,
        certificate: Certificate,
        now: dt.datetime,
    ) -> None:
        audit.append(
            session,
            now=now,
            actor=actor,
            action=action,
            subject=certificate.name,
            detail={"serial": certificate.serial},
        )
