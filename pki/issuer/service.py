"""RPC face of the issuer: check the shape, run one transaction, answer."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from pki import csr, tokens
from pki.authority import Authorities
from pki.issuer import answers, checks, inventory, quarantine, recovery
from pki.issuer.config import Config
from pki.issuer.guests import Guests, Refusal
from pki.issuer.limits import FailureLimiter, RowAllowance
from pki.issuer.nonces import Nonces
from pki.issuer.refusals import Refusals
from pki.issuer.services import Services
from pki.issuer.tally import RenewalTally
from pki.metrics import ENROLMENTS
from pki.store import Store, authorities, certificates, denials, rotations
from trove_grpc import context, metrics
from trove_grpc.errors import (
    InvalidRequestError,
    OverloadedError,
    TroveError,
    UnauthenticatedError,
    UnavailableError,
)
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.guest.v1 import enrolment_service_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.identity import SERVICE_ROLES, Role

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Refusals of a guest's certificate that somebody should look at.
_SUSPICIOUS = frozenset(
    {"STALE_SERIAL", "CSR_KEY_REUSED", "UNKNOWN_CERTIFICATE", "CERTIFICATE_DENIED"}
)
_DENIAL_PAGE = 1000
_MAX_DENIAL_PAGE = 10_000
_TOKEN_PAGE = 100
_MAX_TOKEN_PAGE = 1000
_CERTIFICATE_PAGE = 100
_MAX_CERTIFICATE_PAGE = 1000


class IssuerServicer(rpc.IssuerServiceServicer):
    """Serves IssuerService on the internal listener and on the operator socket."""

    def __init__(
        self,
        store: Store,
        signers: Authorities,
        config: Config,
        *,
        refusals: Refusals,
        tally: RenewalTally,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._store = store
        self._config = config
        self._now = now
        self._refusals = refusals
        self._tally = tally
        self._guests = Guests(signers, config)
        self._recovery = recovery.Recovery(self._guests, config)
        self._nonces = Nonces(config.nonce_lifetime.total_seconds())
        self._services = Services(signers, config)
        self._failures = FailureLimiter(config.enrol_attempts_per_minute)
        self._rows = RowAllowance(config.refusal_rows_per_minute)

    # Guests, through a gateway.

    async def EnrolGuest(self, request: pb.EnrolGuestRequest, context: Any) -> Any:
        enrolment = request.enrolment
        peer = request.peer_address
        self._failures.check(peer)
        instance_id = checks.instance_id(enrolment.instance_id)
        public_key = csr.accept(enrolment.csr_der)
        token = tokens.parse(enrolment.token)
        now = self._now()

        def work(session: Session) -> Any:
            outcome = self._guests.enrol(
                session,
                token,
                instance_id=instance_id,
                public_key=public_key,
                actor=request.peer_address or "unknown address",
                now=now,
            )
            return outcome, authorities.bundle(session)

        outcome, bundle = await self._store.run(work)
        if isinstance(outcome, Refusal):
            self._failures.count(peer)
            metrics.RPC_REFUSED.labels("TOKEN_REFUSED").inc()
            ENROLMENTS.labels("refused").inc()
            self._refusals.note(
                "refuse-token",
                outcome.why,
                actor=peer or "unknown address",
                subject=instance_id,
                detail={"token": outcome.token_id} if outcome.token_id else {},
            )
            await self._refusals.flush()
            # The one answer: which of the reasons it was stands in the audit alone.
            raise UnauthenticatedError(
                "enrolment token refused; ask for a new one", reason="TOKEN_REFUSED"
            )
        ENROLMENTS.labels("enrolled").inc()
        return pb.EnrolGuestResponse(
            enrolment=enrolment_service_pb2.EnrolResponse(
                chain_pem=outcome.chain_pem,
                bundle=bundle,
                server_time=answers.timestamp(now),
                renewal_window=answers.renewal_window(outcome),
            )
        )

    async def GetRecoveryNonce(self, request: pb.GetRecoveryNonceRequest, context: Any) -> Any:
        instance_id = checks.instance_id(request.nonce.instance_id)
        return pb.GetRecoveryNonceResponse(
            nonce=enrolment_service_pb2.GetNonceResponse(
                nonce=self._nonces.issue(instance_id),
                server_time=answers.timestamp(self._now()),
            )
        )

    async def RecoverGuest(self, request: pb.RecoverGuestRequest, context: Any) -> Any:
        shown = request.recovery
        peer = request.peer_address
        self._failures.check(peer)
        actor, now = request.peer_address or "unknown address", self._now()
        try:
            instance_id = checks.instance_id(shown.instance_id)
            asked = recovery.Request(
                instance_id=instance_id,
                expired_chain_pem=shown.expired_chain_pem,
                nonce=shown.nonce,
                csr_der=shown.csr_der,
                signature=shown.signature,
                public_key=csr.accept(shown.csr_der),
            )
            self._nonces.redeem(shown.nonce, instance_id)
            certificate, bundle = await self._store.run(
                lambda session: (
                    self._recovery.recover(session, asked, actor=actor, now=now),
                    authorities.bundle(session),
                )
            )
        except UnavailableError:
            raise
        except TroveError as error:
            self._failures.count(peer)
            await self._write_refusal("refuse-recovery", error, peer, shown.instance_id)
            raise
        return pb.RecoverGuestResponse(
            recovery=enrolment_service_pb2.RecoverResponse(
                chain_pem=certificate.chain_pem,
                bundle=bundle,
                server_time=answers.timestamp(now),
                renewal_window=answers.renewal_window(certificate),
            )
        )

    async def RenewGuest(self, request: pb.RenewGuestRequest, context: Any) -> Any:
        public_key = csr.accept(request.csr_der)
        now = self._now()
        try:
            certificate, bundle = await self._run_for_guest(
                lambda session: (
                    self._guests.renew(session, request.certificate_pem, public_key, now),
                    authorities.bundle(session),
                ),
                is_renewal=True,
            )
        except TroveError as error:
            self._tally.failed(hashlib.sha256(request.certificate_pem).hexdigest(), error)
            raise
        self._tally.renewed()
        return pb.RenewGuestResponse(
            chain_pem=certificate.chain_pem,
            bundle=bundle,
            server_time=answers.timestamp(now),
            renewal_window=answers.renewal_window(certificate),
        )

    async def ConfirmGuest(self, request: pb.ConfirmGuestRequest, context: Any) -> Any:
        now = self._now()
        await self._run_for_guest(
            lambda session: self._guests.confirm(session, request.certificate_pem, now)
        )
        return pb.ConfirmGuestResponse()

    async def IssueEngineCertificate(
        self, request: pb.IssueEngineCertificateRequest, context: Any
    ) -> Any:
        public_key = csr.accept(request.csr_der)
        now = self._now()
        certificate, bundle = await self._run_for_guest(
            lambda session: (
                self._guests.issue_engine(session, request.certificate_pem, public_key, now),
                authorities.bundle(session),
            )
        )
        roots = [
            authority.certificate_pem
            for authority in bundle.authorities
            if authority.kind == trust_pb2.AUTHORITY_KIND_DATABASE_ROOT
            and authority.state != trust_pb2.AUTHORITY_STATE_TAINTED
        ]
        return pb.IssueEngineCertificateResponse(
            chain_pem=certificate.chain_pem,
            root_pem=b"".join(roots),
            expire_time=answers.timestamp(certificate.expire_time),
        )

    # Instances, told by flow steps.

    async def RegisterSubject(self, request: pb.RegisterSubjectRequest, context: Any) -> Any:
        instance_id = checks.instance_id(request.instance_id)
        tenant_id = checks.tenant_id(request.tenant_id)
        dns_names = checks.dns_names(request.engine_dns_names)
        ip_addresses = checks.ip_addresses(request.engine_ip_addresses)
        actor, now = _actor(), self._now()
        subject = await self._store.run(
            lambda session: inventory.register_subject(
                session,
                instance_id=instance_id,
                tenant_id=tenant_id,
                dns_names=dns_names,
                ip_addresses=ip_addresses,
                actor=actor,
                now=now,
            )
        )
        return pb.RegisterSubjectResponse(enrol_epoch=subject.enrol_epoch)

    async def RetireSubject(self, request: pb.RetireSubjectRequest, context: Any) -> Any:
        instance_id = checks.instance_id(request.instance_id)
        reason = checks.reason(request.reason or "instance deleted")
        actor, now = _actor(), self._now()
        await self._store.run(
            lambda session: inventory.retire_subject(
                session, self._config, instance_id, reason, actor=actor, now=now
            )
        )
        return pb.RetireSubjectResponse()

    async def MintToken(self, request: pb.MintTokenRequest, context: Any) -> Any:
        instance_id = checks.instance_id(request.instance_id)
        lifetime = request.lifetime.ToTimedelta() if request.HasField("lifetime") else None
        actor, now = _actor(), self._now()
        row, clear = await self._store.run(
            lambda session: inventory.mint_token(
                session, self._config, instance_id, lifetime, actor=actor, now=now
            )
        )
        return pb.MintTokenResponse(
            token_id=row.token_id,
            token=clear.text,
            expire_time=answers.timestamp(row.expire_time),
        )

    async def VoidTokens(self, request: pb.VoidTokensRequest, context: Any) -> Any:
        instance_id = checks.instance_id(request.instance_id)
        actor, now = _actor(), self._now()
        await self._store.run(
            lambda session: inventory.void_tokens(session, instance_id, actor=actor, now=now)
        )
        return pb.VoidTokensResponse()

    async def ListTokens(self, request: pb.ListTokensRequest, context: Any) -> Any:
        size = _page_size(request.page_size, _TOKEN_PAGE, _MAX_TOKEN_PAGE)
        instance_id = request.instance_id and checks.instance_id(request.instance_id)
        rows = await self._store.run(
            lambda session: inventory.list_tokens(
                session, instance_id=instance_id, page_token=request.page_token, size=size
            )
        )
        now, most = self._now(), self._config.token_max_failures
        return pb.ListTokensResponse(
            tokens=[answers.token(row, now, max_failures=most) for row in rows],
            next_page_token=rows[-1].token_id if len(rows) == size else "",
        )

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Any) -> Any:
        actor, now = _actor(), self._now()
        was_revoked = await self._store.run(
            lambda session: inventory.revoke_token(session, request.token_id, actor=actor, now=now)
        )
        return pb.RevokeTokenResponse(was_revoked=was_revoked)

    # Trust and refusal.

    async def GetTrustBundle(self, request: pb.GetTrustBundleRequest, context: Any) -> Any:
        caller, now = _caller(), self._now()

        def work(session: Session) -> pb.GetTrustBundleResponse:
            if caller.role in SERVICE_ROLES:
                # The first use of a renewed certificate, which ends the one before it.
                self._services.saw(session, caller, request.held_version, now)
            domain = authorities.domain(session)
            bundle = authorities.bundle(session)
            if caller.role is Role.FEDERATED:
                bundle.ClearField("federated")  # whom else we trust is not theirs to know
            return pb.GetTrustBundleResponse(
                bundle=bundle,
                server_time=answers.timestamp(now),
                poll_after=answers.duration(self._config.rotation_bundle_poll)
                if rotations.is_any_open(session)
                else None,
                renew_before=None
                if domain.services_renew_before is None
                else answers.timestamp(domain.services_renew_before),
            )

        return await self._store.run(work)

    async def PushTrustBundle(self, request: pb.PushTrustBundleRequest, context: Any) -> Any:
        reason = checks.reason(request.reason)
        actor, now = _actor(), self._now()
        version = await self._store.run(
            lambda session: inventory.push_bundle(session, reason, actor=actor, now=now)
        )
        return pb.PushTrustBundleResponse(bundle_version=version)

    async def ListDenials(self, request: pb.ListDenialsRequest, context: Any) -> Any:
        size = _page_size(request.page_size, _DENIAL_PAGE, _MAX_DENIAL_PAGE)
        rows, head = await self._store.run(
            lambda session: (
                denials.after(session, request.after_sequence, size),
                denials.head(session),
            )
        )
        return pb.ListDenialsResponse(
            denials=[answers.denial(row) for row in rows], head_sequence=head
        )

    async def CreateDenial(self, request: pb.CreateDenialRequest, context: Any) -> Any:
        kind, value = checks.denied(request.kind, request.value)
        reason = checks.reason(request.reason)
        actor, now = _actor(), self._now()
        row = await self._store.run(
            lambda session: inventory.create_denial(
                session, kind, value, reason, actor=actor, now=now
            )
        )
        return pb.CreateDenialResponse(denial=answers.denial(row))

    async def RecordRefusals(self, request: pb.RecordRefusalsRequest, context: Any) -> Any:
        told = checks.refusals(request.refusals)
        actor, now = _actor(), self._now()
        try:
            self._rows.take(actor, len(told))
        except OverloadedError as error:
            metrics.RPC_REFUSED.labels(error.reason).inc()
            self._refusals.note("refuse-call", error.reason, actor=actor, subject=actor)
            raise
        await self._store.run(
            lambda session: inventory.record_refusals(session, told, actor=actor, now=now)
        )
        return pb.RecordRefusalsResponse()

    # Services and operators.

    async def RenewService(self, request: pb.RenewServiceRequest, context: Any) -> Any:
        public_key = csr.accept(request.csr_der)
        caller, now = _caller(), self._now()
        certificate, bundle = await self._store.run(
            lambda session: (
                self._services.renew(session, caller, public_key, now),
                authorities.bundle(session),
            )
        )
        return pb.RenewServiceResponse(chain_pem=certificate.chain_pem, bundle=bundle)

    async def EnrolService(self, request: pb.EnrolServiceRequest, context: Any) -> Any:
        role, host = checks.service_role(request.role), checks.host(request.host)
        public_key = csr.accept(request.csr_der)
        actor, now = _actor(), self._now()
        certificate, bundle = await self._store.run(
            lambda session: (
                self._services.enrol(
                    session, role=role, host=host, public_key=public_key, actor=actor, now=now
                ),
                authorities.bundle(session),
            )
        )
        return pb.EnrolServiceResponse(chain_pem=certificate.chain_pem, bundle=bundle)

    async def IssueOperatorCertificate(
        self, request: pb.IssueOperatorCertificateRequest, context: Any
    ) -> Any:
        name = checks.operator_name(request.name)
        public_key = csr.accept(request.csr_der)
        lifetime = (
            request.lifetime.ToTimedelta()
            if request.HasField("lifetime")
            else self._config.operator_lifetime
        )
        if lifetime <= dt.timedelta(0):
            raise InvalidRequestError("lifetime must be more than 0")
        actor, now = _actor(), self._now()
        certificate, bundle = await self._store.run(
            lambda session: (
                self._services.issue_operator(
                    session,
                    name=name,
                    lifetime=lifetime,
                    public_key=public_key,
                    actor=actor,
                    now=now,
                ),
                authorities.bundle(session),
            )
        )
        return pb.IssueOperatorCertificateResponse(chain_pem=certificate.chain_pem, bundle=bundle)

    async def ListCertificates(self, request: pb.ListCertificatesRequest, context: Any) -> Any:
        size = _page_size(request.page_size, _CERTIFICATE_PAGE, _MAX_CERTIFICATE_PAGE)
        if request.page_token and not request.page_token.isdecimal():
            raise InvalidRequestError("page_token is not one of ours; begin again without it")
        before = int(request.page_token) if request.page_token else None
        rows = await self._store.run(
            lambda session: certificates.page(
                session, subject=request.subject, before=before, size=size
            )
        )
        return pb.ListCertificatesResponse(
            certificates=[answers.certificate(row) for row in rows],
            next_page_token=str(rows[-1].number) if len(rows) == size else "",
        )

    async def _run_for_guest(
        self, work: Callable[[Session], Result], *, is_renewal: bool = False
    ) -> Result:
        """Run a guest's transaction; a suspicious refusal is written down though all is undone.

        A superseded certificate that asks for its successor means two holders of the instance's
        identity. In other calls it may be one that was on its way while it was superseded.
        """
        try:
            return await self._store.run(work)
        except TroveError as error:
            if error.reason not in _SUSPICIOUS:
                raise
            subject, actor, now = error.subject, _actor(), self._now()
            if is_renewal and error.reason == "STALE_SERIAL":
                await self._store.run(
                    lambda session: quarantine.begin(
                        session, subject, quarantine.STALE, actor=actor, now=now
                    )
                )
            # One guest that insists must not fill the audit: beyond the limit it is only refused.
            self._failures.check(subject)
            self._failures.count(subject)
            # By guest, not by gateway: the rows of one must not stand for those of all.
            await self._write_refusal("refuse-certificate", error, subject or actor, subject)
            raise

    async def _write_refusal(
        self, action: str, error: TroveError, actor: str, subject: str
    ) -> None:
        metrics.RPC_REFUSED.labels(error.reason).inc()
        log.warning("%s: %s: %s", action, error.reason, error)
        self._refusals.note(action, error.reason, actor=actor, subject=subject)
        await self._refusals.flush()


def _caller() -> Any:
    return context.caller()


def _actor() -> str:
    return context.caller().uri


def _page_size(asked: int, default: int, most: int) -> int:
    if asked < 0:
        raise InvalidRequestError("page_size must not be negative")
    return min(asked or default, most)
