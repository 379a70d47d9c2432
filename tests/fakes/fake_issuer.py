"""An issuer without a database: signs with the test authority, denies what it is told."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import timestamp_pb2

from tests.fakes.certificates import TestAuthority
from trove_grpc import errors
from trove_grpc.context import caller
from trove_grpc.gen.guest.v1 import enrolment_service_pb2 as enrolment_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as watch_pb2
from trove_grpc.gen.issuer.v1 import watch_service_pb2_grpc as watch_rpc
from trove_grpc.identity import identify
from trove_grpc.process import wait_or_timeout
from trove_grpc.server import Server, build_internal_server
from trove_grpc.tls import IdentityDirectory


class FakeIssuer(rpc.IssuerServiceServicer, watch_rpc.WatchServiceServicer):
    """Tokens, renewals and denials in memory."""

    def __init__(self, authority: TestAuthority, identity: IdentityDirectory) -> None:
        self.authority = authority
        self.identity = identity
        self.port = 0
        self.tokens: dict[str, tuple[str, str]] = {}  # token -> (tenant, instance), used once
        self.confirmed: list[str] = []  # serials
        self.denials: list[pb2.Denial] = []
        self.enrolments: list[pb2.EnrolGuestRequest] = []
        self.refusals: list[pb2.Refusal] = []
        self.polls = 0
        # What watchers are told besides denials; `tell` sends it.
        self.bundle_version = 1
        self.held_versions: list[int] = []  # as those said who asked for the bundle
        self.directives: list[watch_pb2.RenewalDirective] = []
        self.quarantined: list[str] = []
        self.reports: list[watch_pb2.ReportGuestsRequest] = []
        self.watchers = 0
        self.watches = 0  # begun
        self.may_watch = True
        self.is_silent = False  # streams stay open and say nothing
        self.interval = 0.1  # seconds between signs of life
        self._news = asyncio.Event()
        self.poll_after: dt.timedelta | None = None
        self.renew_before: dt.datetime | None = None
        self.renewals = 0
        self._server: Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; after `stop` on the same port again."""
        self._server = build_internal_server(
            f"127.0.0.1:{self.port}",
            identity=self.identity,
            register=self._register,
            services=["trove.issuer.v1.IssuerService", "trove.issuer.v1.WatchService"],
        )
        self.port = self._server.port
        await self._server.start()

    def _register(self, server: Any) -> None:
        rpc.add_IssuerServiceServicer_to_server(self, server)
        watch_rpc.add_WatchServiceServicer_to_server(self, server)

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(0)

    def deny(
        self,
        kind: pb2.DenialKind.ValueType,
        value: str,
        *,
        reason: str = "told so",
        effective_time: timestamp_pb2.Timestamp | None = None,
    ) -> None:
        self.denials.append(
            pb2.Denial(
                sequence=len(self.denials) + 1,
                kind=kind,
                value=value,
                reason=reason,
                effective_time=effective_time,
            )
        )
        self.tell()

    def tell(self) -> None:
        """Have every watcher hear how things stand."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def sightings(self, instance_id: str) -> list[watch_pb2.GuestSighting]:
        """What gateways reported of one guest, in order."""
        return [
            sighting
            for report in self.reports
            for sighting in report.sightings
            if sighting.instance_id == instance_id
        ]

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[watch_pb2.WatchResponse]:
        if not self.may_watch:
            raise errors.UnavailableError("nobody may watch now")
        known = request.after_sequence
        self.watchers += 1
        self.watches += 1
        try:
            while True:
                news = self._news
                if not self.is_silent:
                    following = [d for d in self.denials if d.sequence > known]
                    yield watch_pb2.WatchResponse(
                        denials=following,
                        head_sequence=len(self.denials),
                        bundle_version=self.bundle_version,
                        directives=self.directives,
                        quarantined_instance_ids=self.quarantined,
                    )
                    known = len(self.denials)
                await wait_or_timeout(news, self.interval)
        finally:
            self.watchers -= 1

    async def ReportGuests(self, request: Any, context: Any) -> Any:
        self.reports.append(request)
        return watch_pb2.ReportGuestsResponse()

    async def EnrolGuest(self, request: Any, context: Any) -> Any:
        self.enrolments.append(request)
        enrolment = request.enrolment
        owner = self.tokens.pop(enrolment.token, None)
        if owner is None or owner[1] != enrolment.instance_id:
            raise errors.UnauthenticatedError("the token is refused", reason="TOKEN_REFUSED")
        return pb2.EnrolGuestResponse(
            enrolment=enrolment_pb2.EnrolResponse(
                chain_pem=self.authority.guest_chain(*owner, enrolment.csr_der),
                bundle=self.authority.bundle(),
            )
        )

    async def RenewGuest(self, request: Any, context: Any) -> Any:
        guest = identify(request.certificate_pem, self.authority.bundle())
        return pb2.RenewGuestResponse(
            chain_pem=self.authority.guest_chain(
                guest.tenant_id, guest.instance_id, request.csr_der
            ),
            bundle=self.authority.bundle(),
        )

    async def ConfirmGuest(self, request: Any, context: Any) -> Any:
        guest = identify(request.certificate_pem, self.authority.bundle())
        self.confirmed.append(guest.serial)
        return pb2.ConfirmGuestResponse()

    async def IssueEngineCertificate(self, request: Any, context: Any) -> Any:
        guest = identify(request.certificate_pem, self.authority.bundle())
        return pb2.IssueEngineCertificateResponse(
            chain_pem=b"chain for " + guest.instance_id.encode(), root_pem=b"root"
        )

    async def RecordRefusals(self, request: Any, context: Any) -> Any:
        self.refusals.extend(request.refusals)
        return pb2.RecordRefusalsResponse()

    async def GetTrustBundle(self, request: Any, context: Any) -> Any:
        self.held_versions.append(request.held_version)
        response = pb2.GetTrustBundleResponse(bundle=self.authority.bundle(self.bundle_version))
        if self.poll_after is not None:
            response.poll_after.FromTimedelta(self.poll_after)
        if self.renew_before is not None:
            response.renew_before.FromDatetime(self.renew_before)
        return response

    async def RenewService(self, request: Any, context: Any) -> Any:
        self.renewals += 1
        return pb2.RenewServiceResponse(
            chain_pem=self.authority.service_chain(request.csr_der, caller().role),
            bundle=self.authority.bundle(self.bundle_version),
        )

    async def ListDenials(self, request: Any, context: Any) -> Any:
        self.polls += 1
        size = request.page_size or 1000
        following = [d for d in self.denials if d.sequence > request.after_sequence]
        return pb2.ListDenialsResponse(denials=following[:size], head_sequence=len(self.denials))
