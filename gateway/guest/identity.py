"""IdentityService: a guest's own certificates, passed on to the issuer.

The subject is the certificate of the connection; the issuer verifies it again. The trust bundle
is the gateway's own, so that a guest can neither load the issuer with asking nor needs it up.
"""

from __future__ import annotations

from typing import Any

from gateway.guest.enrolment import MAX_CSR_BYTES
from gateway.guest.limits import Allowance
from gateway.guest.registry import Registry
from pki.feed import DenialFeed
from trove_grpc import context, errors
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.guest.v1 import identity_service_pb2 as identity_pb2
from trove_grpc.gen.guest.v1 import identity_service_pb2_grpc as identity_rpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as issuer_rpc
from trove_grpc.identity import Identity
from trove_grpc.tls import IdentityDirectory


class IdentityService(identity_rpc.IdentityServiceServicer):
    """Renewal, confirmation, bundle and engine certificate, for the caller alone."""

    def __init__(
        self,
        issuer: PeerChannel,
        feed: DenialFeed,
        registry: Registry,
        identity: IdentityDirectory,
        *,
        renewals_per_hour: int,
        timeout: float,
    ) -> None:
        self._issuer = issuer
        self._feed = feed
        self._registry = registry
        self._identity = identity
        self._timeout = timeout
        self._renewals = Allowance(per_second=renewals_per_hour / 3600, burst=renewals_per_hour)
        self._reads = Allowance(per_second=1.0, burst=30)

    async def Renew(
        self, request: identity_pb2.RenewRequest, context_: Any
    ) -> identity_pb2.RenewResponse:
        """The next certificate, pending until Confirm."""
        caller = context.caller()
        self._guard(caller, request.csr_der)
        response: issuer_pb2.RenewGuestResponse = await call(
            self._stub().RenewGuest,
            issuer_pb2.RenewGuestRequest(
                certificate_pem=caller.certificate_pem, csr_der=request.csr_der
            ),
            timeout=self._timeout,
            retry=True,
        )
        return identity_pb2.RenewResponse(
            chain_pem=response.chain_pem,
            bundle=response.bundle,
            server_time=response.server_time,
            renewal_window=response.renewal_window,
        )

    async def Confirm(
        self, request: identity_pb2.ConfirmRequest, context_: Any
    ) -> identity_pb2.ConfirmResponse:
        """Promote the certificate of this connection; commands move to its session."""
        caller = context.caller()
        _take(self._reads, caller)
        await call(
            self._stub().ConfirmGuest,
            issuer_pb2.ConfirmGuestRequest(certificate_pem=caller.certificate_pem),
            timeout=self._timeout,
            retry=True,
        )
        self._registry.confirm(caller.instance_id, caller.serial)
        return identity_pb2.ConfirmResponse()

    async def GetTrustBundle(
        self, request: identity_pb2.GetTrustBundleRequest, context_: Any
    ) -> identity_pb2.GetTrustBundleResponse:
        """The bundle this gateway uses itself."""
        _take(self._reads, context.caller())
        return identity_pb2.GetTrustBundleResponse(bundle=self._identity.bundle())

    async def IssueEngineCertificate(
        self, request: identity_pb2.IssueEngineCertificateRequest, context_: Any
    ) -> identity_pb2.IssueEngineCertificateResponse:
        """The certificate the caller's engine shows to database clients."""
        caller = context.caller()
        self._guard(caller, request.csr_der)
        response: issuer_pb2.IssueEngineCertificateResponse = await call(
            self._stub().IssueEngineCertificate,
            issuer_pb2.IssueEngineCertificateRequest(
                certificate_pem=caller.certificate_pem, csr_der=request.csr_der
            ),
            timeout=self._timeout,
            retry=True,
        )
        return identity_pb2.IssueEngineCertificateResponse(
            chain_pem=response.chain_pem,
            root_pem=response.root_pem,
            expire_time=response.expire_time,
        )

    def _stub(self) -> issuer_rpc.IssuerServiceStub:
        return self._issuer.stub(issuer_rpc.IssuerServiceStub)

    def _guard(self, caller: Identity, csr_der: bytes) -> None:
        self._feed.require_fresh()
        if len(csr_der) > MAX_CSR_BYTES:
            raise errors.InvalidRequestError(
                f"the CSR is longer than {MAX_CSR_BYTES} bytes", reason="BAD_CSR"
            )
        _take(self._renewals, caller)


def _take(allowance: Allowance, caller: Identity) -> None:
    if (wait := allowance.take(caller.instance_id)) > 0:
        raise errors.OverloadedError(
            "this instance asks for its identity too often",
            subject=caller.uri,
            retry_after=wait,
        )
