"""EnrolmentService: guests without a good identity, passed on to the issuer.

The gateway judges no token and no expired certificate. It only keeps floods from the issuer:
bounded calls at once, of which one address gets half at most, and for each address a limit on
failed attempts alone, since many honest guests may share an address. Per instance there is no
limit here: whoever knows an id could exhaust it for the real guest; the issuer locks a token
after wrong attempts.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from gateway.guest import metrics
from gateway.guest.addresses import peer_address
from gateway.guest.limits import Allowance
from gateway.guest.places import Places
from pki.feed import DenialFeed
from trove_grpc import errors
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.guest.v1 import enrolment_service_pb2 as enrolment_pb2
from trove_grpc.gen.guest.v1 import enrolment_service_pb2_grpc as enrolment_rpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as issuer_rpc

MAX_CSR_BYTES = 4096
_MAX_TOKEN = 256
_MAX_TEXT = 256
_INSTANCE_ID = re.compile(r"\A[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


class EnrolmentService(enrolment_rpc.EnrolmentServiceServicer):
    """Passes first requests on, within limits."""

    def __init__(
        self,
        issuer: PeerChannel,
        feed: DenialFeed,
        *,
        at_once: int,
        line: int,
        failures_per_minute: int,
        timeout: float,
    ) -> None:
        self._issuer = issuer
        self._feed = feed
        self._places = Places(at_once, line=line)
        self._failures = Allowance(per_second=failures_per_minute / 60, burst=failures_per_minute)
        self._timeout = timeout

    async def Enrol(
        self, request: enrolment_pb2.EnrolRequest, context_: Any
    ) -> enrolment_pb2.EnrolResponse:
        """Exchange a token and a CSR for a certificate."""
        address = peer_address(context_.peer())
        with self._bounded(address), _counted("enrol"):
            _check(request)
            if len(request.token) > _MAX_TOKEN:
                raise errors.InvalidRequestError(
                    f"the token is longer than {_MAX_TOKEN} characters"
                )
            async with self._places.taken(address):
                # The same token and key may be sent again: a lost answer costs nothing.
                response: issuer_pb2.EnrolGuestResponse = await call(
                    self._stub().EnrolGuest,
                    issuer_pb2.EnrolGuestRequest(enrolment=request, peer_address=address),
                    timeout=self._timeout,
                    retry=True,
                )
        return response.enrolment

    async def GetNonce(
        self, request: enrolment_pb2.GetNonceRequest, context_: Any
    ) -> enrolment_pb2.GetNonceResponse:
        """A number to sign, and the issuer's time: a guest may have lost both."""
        address = peer_address(context_.peer())
        with self._bounded(address):
            _check_instance_id(request.instance_id)
            async with self._places.taken(address):
                response: issuer_pb2.GetRecoveryNonceResponse = await call(
                    self._stub().GetRecoveryNonce,
                    issuer_pb2.GetRecoveryNonceRequest(nonce=request),
                    timeout=self._timeout,
                    retry=True,
                )
        return response.nonce

    async def Recover(
        self, request: enrolment_pb2.RecoverRequest, context_: Any
    ) -> enrolment_pb2.RecoverResponse:
        """Exchange an expired certificate and proof of its key for the next certificate."""
        address = peer_address(context_.peer())
        with self._bounded(address), _counted("recover"):
            _check(request)
            async with self._places.taken(address):
                # Sent once: its number is good once. The guest asks again, with another.
                response: issuer_pb2.RecoverGuestResponse = await call(
                    self._stub().RecoverGuest,
                    issuer_pb2.RecoverGuestRequest(recovery=request, peer_address=address),
                    timeout=self._timeout,
                )
        return response.recovery

    def _stub(self) -> issuer_rpc.IssuerServiceStub:
        return self._issuer.stub(issuer_rpc.IssuerServiceStub)

    @contextlib.contextmanager
    def _bounded(self, address: str) -> Iterator[None]:
        """Refuse what is too much; a refusal by whoever judges counts against the address."""
        if (wait := self._failures.wait(address)) > 0:
            raise errors.OverloadedError(
                "too many failed enrolments from this address", retry_after=wait
            )
        self._feed.require_fresh()
        try:
            yield
        except (
            errors.InvalidRequestError,
            errors.UnauthenticatedError,
            errors.PermissionDeniedError,
            errors.ConflictError,
        ):
            self._failures.take(address)
            raise


@contextlib.contextmanager
def _counted(kind: str) -> Iterator[None]:
    try:
        yield
    except errors.TroveError as error:
        metrics.ENROLMENTS.labels(kind, error.reason).inc()
        raise
    metrics.ENROLMENTS.labels(kind, "passed").inc()


def _check(request: enrolment_pb2.EnrolRequest | enrolment_pb2.RecoverRequest) -> None:
    if len(request.csr_der) > MAX_CSR_BYTES:
        raise errors.InvalidRequestError(
            f"the CSR is longer than {MAX_CSR_BYTES} bytes", reason="BAD_CSR"
        )
    _check_instance_id(request.instance_id)
    for name in ("boot_id", "machine_id_hash", "agent_version"):
        if len(getattr(request, name)) > _MAX_TEXT:
            raise errors.InvalidRequestError(f"{name} is longer than {_MAX_TEXT} characters")


def _check_instance_id(instance_id: str) -> None:
    if not _INSTANCE_ID.match(instance_id):
        raise errors.InvalidRequestError("instance_id is not a lower-case UUID")
