"""EnrolmentService: guests without an identity, passed on to the issuer.

The gateway judges no token. It only keeps floods from the issuer: bounded calls at once, and for
each address a limit on failed attempts alone, since many honest guests may share an address. Per
instance there is no limit here: whoever knows an id could exhaust it for the real guest; the
issuer locks a token after wrong attempts.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import unquote

from gateway.guest.denials import DenialFeed
from gateway.guest.limits import Allowance
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
        failures_per_minute: int,
        timeout: float,
    ) -> None:
        self._issuer = issuer
        self._feed = feed
        self._slots = asyncio.Semaphore(at_once)
        self._failures = Allowance(per_second=failures_per_minute / 60, burst=failures_per_minute)
        self._timeout = timeout

    async def Enrol(
        self, request: enrolment_pb2.EnrolRequest, context_: Any
    ) -> enrolment_pb2.EnrolResponse:
        """Exchange a token and a CSR for a certificate."""
        address = peer_address(context_.peer())
        if (wait := self._failures.wait(address)) > 0:
            raise errors.OverloadedError(
                "too many failed enrolments from this address", retry_after=wait
            )
        self._feed.require_fresh()
        if self._slots.locked():
            raise errors.OverloadedError("too many enrolments at once", retry_after=1.0)
        try:
            _check(request)
            async with self._slots:
                stub = self._issuer.stub(issuer_rpc.IssuerServiceStub)
                # The same token and key may be sent again: a lost answer costs nothing.
                response: issuer_pb2.EnrolGuestResponse = await call(
                    stub.EnrolGuest,
                    issuer_pb2.EnrolGuestRequest(enrolment=request, peer_address=address),
                    timeout=self._timeout,
                    retry=True,
                )
        except (
            errors.InvalidRequestError,
            errors.UnauthenticatedError,
            errors.PermissionDeniedError,
            errors.ConflictError,
        ):
            self._failures.take(address)
            raise
        return response.enrolment


def peer_address(peer: str) -> str:
    """The host of a gRPC peer ("ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1")."""
    host = unquote(peer).partition(":")[2].rpartition(":")[0]
    return host.strip("[]")


def _check(request: enrolment_pb2.EnrolRequest) -> None:
    if len(request.csr_der) > MAX_CSR_BYTES:
        raise errors.InvalidRequestError(
            f"the CSR is longer than {MAX_CSR_BYTES} bytes", reason="BAD_CSR"
        )
    if not _INSTANCE_ID.match(request.instance_id):
        raise errors.InvalidRequestError("instance_id is not a lower-case UUID")
    if len(request.token) > _MAX_TOKEN:
        raise errors.InvalidRequestError(f"the token is longer than {_MAX_TOKEN} characters")
    for name in ("boot_id", "machine_id_hash", "agent_version"):
        if len(getattr(request, name)) > _MAX_TEXT:
            raise errors.InvalidRequestError(f"{name} is longer than {_MAX_TEXT} characters")
