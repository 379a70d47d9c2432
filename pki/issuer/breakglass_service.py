"""Identities for emergencies: two different operators sign one claim, for an hour at most."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Sequence
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError
from sqlalchemy.orm import Session

from pki import csr, metrics, profiles
from pki.authority import Authorities
from pki.issuer import answers, checks, inventory, ledger
from pki.issuer.config import Config
from pki.models import Certificate
from pki.store import Store, audit, authorities, certificates, denials
from trove_grpc import context
from trove_grpc.errors import InvalidRequestError, PermissionDeniedError, TroveError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import breakglass_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import breakglass_service_pb2_grpc as rpc
from trove_grpc.identity import Identity, Role, breakglass_uri, check_validity, identify, key_hash
from trove_grpc.process import wait_or_timeout

log = logging.getLogger(__name__)

_HOUR = dt.timedelta(hours=1)
_CLOCKS = dt.timedelta(minutes=5)
_CONSENTS = 2
_LOOK = 15.0  # seconds
_MAX_APPROVALS = 8


class BreakglassServicer(rpc.BreakglassServiceServicer):
    """Serves BreakglassService on the internal listener and on the operator socket."""

    def __init__(
        self,
        store: Store,
        signers: Authorities,
        config: Config,
        *,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._store = store
        self._signers = signers
        self._config = config
        self._now = now

    async def IssueBreakglass(self, request: pb.IssueBreakglassRequest, context: Any) -> Any:
        claim = _claim(request.claim, self._now())
        if len(request.approvals) > _MAX_APPROVALS:
            raise InvalidRequestError(f"more than {_MAX_APPROVALS} approvals")
        certificate = await self._store.run(
            lambda session: self._issue(session, claim, request, _actor(), self._now())
        )
        log.critical("break-glass identity %s is alive", certificate.name)
        await self._count()
        return pb.IssueBreakglassResponse(
            chain_pem=certificate.chain_pem,
            expire_time=answers.timestamp(certificate.expire_time),
        )

    async def EndBreakglass(self, request: pb.EndBreakglassRequest, context: Any) -> Any:
        incident = checks.operator_name(request.incident)
        ended = await self._store.run(
            lambda session: self._end(session, incident, _actor(), self._now())
        )
        await self._count()
        return pb.EndBreakglassResponse(ended_certificates=ended)

    async def follow(self, stop: asyncio.Event) -> None:
        """Keep the alarm true: an identity also ends by itself."""
        while True:
            try:
                await self._count()
            except TroveError as error:
                log.warning("cannot count break-glass identities: %s", error)
            if await wait_or_timeout(stop, _LOOK):
                return

    def _issue(
        self,
        session: Session,
        claim: pb.BreakglassClaim,
        request: pb.IssueBreakglassRequest,
        actor: str,
        now: dt.datetime,
    ) -> Certificate:
        names = self._consents(session, request, now)
        public_key = csr.accept(claim.csr_der)
        uri = breakglass_uri(self._config.trust_domain, claim.incident)
        known = certificates.by_key(session, key_hash(public_key))
        if known is not None:
            if known.name != uri or known.state not in certificates.LIVE:
                raise ledger.reused_key(uri)
            return known
        signer = self._signers.signer(session, trust_pb2.AUTHORITY_KIND_OPERATOR, now)
        builder = profiles.breakglass(
            public_key,
            signer.certificate,
            trust_domain=self._config.trust_domain,
            incident=claim.incident,
            lifetime=claim.lifetime.ToTimedelta(),
            now=now,
            margin=self._config.authority_margin,
        )
        issued = self._signers.issue(signer, builder)
        certificate = ledger.record(session, issued, name=uri, state=certificates.CURRENT, now=now)
        audit.append(
            session,
            now=now,
            actor=actor,
            action="issue-breakglass",
            subject=uri,
            detail={
                "serial": certificate.serial,
                "reason": claim.reason,
                "approved_by": " ".join(names),
            },
        )
        return certificate

    def _consents(
        self, session: Session, request: pb.IssueBreakglassRequest, now: dt.datetime
    ) -> Sequence[str]:
        """Operators who signed the claim; PermissionDeniedError when they are too few."""
        bundle = authorities.bundle(session)
        names = set()
        for approval in request.approvals:
            signer = identify(approval.chain_pem, bundle)
            check_validity(signer, now)
            _check_operator(session, signer, now)
            _check_signature(approval, request.claim, signer)
            names.add(signer.name)
        if len(names) < _CONSENTS:
            raise PermissionDeniedError(
                f"{len(names)} operator signed the claim; two different ones must",
                reason="TOO_FEW_APPROVALS",
            )
        return sorted(names)

    def _end(self, session: Session, incident: str, actor: str, now: dt.datetime) -> int:
        uri = breakglass_uri(self._config.trust_domain, incident)
        alive = [each for each in _alive(session, now) if each.name == uri]
        for certificate in alive:
            inventory.create_denial(
                session, denials.SERIAL, certificate.serial, "emergency over", actor=actor, now=now
            )
        if alive:
            audit.append(session, now=now, actor=actor, action="end-breakglass", subject=uri)
        return len(alive)

    async def _count(self) -> None:
        now = self._now()
        alive = await self._store.run(lambda session: _alive(session, now))
        metrics.BREAKGLASS_ALIVE.set(len(alive))


def _alive(session: Session, now: dt.datetime) -> Sequence[Certificate]:
    return certificates.live_named(session, "spiffe://%/breakglass/%", now)


def _claim(data: bytes, now: dt.datetime) -> pb.BreakglassClaim:
    """The claim, in bounds; raises InvalidRequestError."""
    try:
        claim = pb.BreakglassClaim.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError("claim is no BreakglassClaim") from error
    checks.operator_name(claim.incident)
    checks.reason(claim.reason)
    if not dt.timedelta(0) < claim.lifetime.ToTimedelta() <= _HOUR:
        raise InvalidRequestError("lifetime must be more than 0 and at most an hour")
    made = claim.create_time.ToDatetime(dt.UTC)
    if not now - _HOUR <= made <= now + _CLOCKS:
        raise InvalidRequestError(
            "the claim is older than an hour, or of the future; make another"
        )
    return claim


def _check_operator(session: Session, signer: Identity, now: dt.datetime) -> None:
    row = certificates.by_serial(session, signer.serial)
    if signer.role is not Role.OPERATOR or row is None or row.key_hash != signer.key_hash:
        raise PermissionDeniedError(
            f"{signer.uri} is no operator of ours; operators consent, nobody else",
            reason="NO_OPERATOR",
            subject=signer.uri,
        )
    ledger.refuse_denied(session, now, certificate=row)


def _check_signature(approval: pb.BreakglassApproval, claim: bytes, signer: Identity) -> None:
    key = x509.load_pem_x509_certificate(approval.chain_pem).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101  `identify` saw to it
    try:
        key.verify(approval.signature, claim, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise PermissionDeniedError(
            f"the approval of {signer.uri} is not for this claim",
            reason="BAD_APPROVAL",
            subject=signer.uri,
        ) from error


def _actor() -> str:
    return context.caller().uri
