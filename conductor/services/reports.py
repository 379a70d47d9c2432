"""ReportService: what guest gateways tell of their guests.

A stream is read one batch at a time and the next is read when the last is committed, so at most
one batch of each gateway is in memory; a gateway that sends faster feels HTTP/2's window, and
coalesces. If the database fails, the stream ends with UNAVAILABLE and the gateway sends again
what was not acknowledged.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from sqlalchemy.orm import Session

from conductor import metrics, views
from conductor.config import Config
from conductor.executor import Database
from conductor.presence import Presence, PresenceTable, clean
from conductor.services import checks
from conductor.store import guests, reports
from conductor.store.reports import Applied, BackupChange, UrgentReport
from trove_grpc.context import caller
from trove_grpc.errors import NotFoundError, UnavailableError
from trove_grpc.gen.conductor.v1 import report_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import report_service_pb2_grpc
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.interceptors import Denials

log = logging.getLogger(__name__)


class ReportService(report_service_pb2_grpc.ReportServiceServicer):
    """Leases, sessions and reports."""

    def __init__(
        self,
        *,
        config: Config,
        database: Database,
        presence: PresenceTable,
        denials: Denials | None = None,
        stop: asyncio.Event,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._config = config
        self._database = database
        self._presence = presence
        self._denials = denials
        self._stop = stop
        self._now = now

    async def RenewGatewayLease(
        self, request: pb2.RenewGatewayLeaseRequest, _context: Any
    ) -> pb2.RenewGatewayLeaseResponse:
        await self._database.write(
            guests.renew_lease,
            gateway_id=checks.require_text(request.gateway_id, "gateway_id"),
            incarnation=checks.require_text(request.incarnation, "incarnation", longest=64),
            address=checks.require_text(request.address, "address"),
            expire_time=self._now() + self._config.gateway_lease,
        )
        return pb2.RenewGatewayLeaseResponse(lease=_duration(self._config.gateway_lease))

    async def OpenSession(
        self, request: pb2.OpenSessionRequest, _context: Any
    ) -> pb2.OpenSessionResponse:
        now = self._now()
        opening = guests.Opening(
            instance_id=clean(request.instance_id, 36),
            tenant_id=request.tenant_id,
            gateway_id=checks.require_text(request.gateway_id, "gateway_id"),
            incarnation=checks.require_text(request.incarnation, "incarnation", longest=64),
            certificate_serial=clean(request.certificate_serial, 64),
            boot_id=clean(request.boot_id, 255),
            agent_version=clean(request.agent_version, 64),
        )
        hello = Presence.from_observation(
            request.observation, session_epoch=0, sequence=0, now=now
        )
        granted = await self._database.write(guests.open_session, opening, hello, now=now)
        self._presence.load(opening.instance_id, granted)
        metrics.SESSIONS_OPENED.inc()
        log.info(
            "session %d of %s opened by %s",
            granted.session_epoch,
            opening.instance_id,
            opening.gateway_id,
        )
        return pb2.OpenSessionResponse(
            session_epoch=granted.session_epoch,
            heartbeat_interval=_duration(self._config.heartbeat_interval),
        )

    async def CloseSession(
        self, request: pb2.CloseSessionRequest, _context: Any
    ) -> pb2.CloseSessionResponse:
        await self._database.write(
            guests.close_session,
            instance_id=clean(request.instance_id, 36),
            session_epoch=request.session_epoch,
            reason=clean(request.reason, 255),
            now=self._now(),
        )
        return pb2.CloseSessionResponse()

    async def Report(  # type: ignore[override]  # grpc.aio's other way: write, not yield
        self, request_iterator: AsyncIterator[pb2.ReportRequest], context: Any
    ) -> None:
        # Read and written by hand: a generator that waits for its peer cannot see that we stop,
        # and the server would wait for it until its grace is over.
        while True:
            batch = await self._next_batch(context)
            if not isinstance(batch, pb2.ReportRequest):
                return
            self._refuse_denied()
            applied = await self._take(batch)
            if applied:
                await context.write(_acknowledge(applied))

    async def LookupSession(
        self, request: pb2.LookupSessionRequest, _context: Any
    ) -> pb2.LookupSessionResponse:
        instance_id = clean(request.instance_id, 36)
        live = await self._database.read(
            guests.live_session, instance_id=instance_id, now=self._now()
        )
        if live is None:
            raise NotFoundError(
                f"the agent of instance {instance_id} is not connected to any gateway",
                reason="NO_SESSION",
                subject=instance_id,
            )
        return pb2.LookupSessionResponse(
            gateway_id=live.gateway.id,
            incarnation=live.gateway.incarnation,
            gateway_address=live.gateway.address,
            session_epoch=live.session.session_epoch,
            lease_expire_time=views.timestamp(live.gateway.lease_expire_time),
        )

    def _refuse_denied(self) -> None:
        """A stream outlives the look at its certificate: look again at each batch."""
        if self._denials is not None and (refusal := self._denials.refusal(caller())):
            raise refusal

    async def _next_batch(self, context: Any) -> object:
        """The next batch, or the end of the stream; raises UnavailableError when we stop."""
        reading = asyncio.ensure_future(context.read())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            raise UnavailableError("the conductor stops; report to another one", retry_after=1)
        finally:
            reading.cancel()
            stopping.cancel()

    async def _take(self, batch: pb2.ReportRequest) -> list[Applied]:
        """Take a batch in; returns what to acknowledge, all of it committed."""
        now = self._now()
        await self._learn_sessions(batch)
        reported = set()
        for report in batch.reports:
            if report.WhichOneof("report") != "heartbeat":
                continue
            is_news = self._presence.accept(
                report.instance_id, _presence(report, report.heartbeat.observation, now)
            )
            metrics.REPORTS.labels("heartbeat", "taken" if is_news else "dropped").inc()
            if is_news:
                reported.add(report.instance_id)
        due = self._presence.due(reported, now)
        urgent = [item for report in batch.reports if (item := _urgent(report, now)) is not None]
        if not due and not urgent:
            return []
        applied = await self._database.write(_commit, due, urgent, now)
        self._presence.persisted(due)
        for outcome in applied:
            kind = "backup_update" if outcome.report.backup is not None else "change"
            metrics.REPORTS.labels(kind, "dropped" if outcome.is_dropped else "taken").inc()
            if (change := outcome.new_change) is not None:
                self._presence.accept(outcome.report.instance_id, change)
                # Even where a later heartbeat is known here: the row now says what the change
                # said, so the next heartbeat that says otherwise must be written.
                self._presence.persisted({outcome.report.instance_id: change})
        return [outcome for outcome in applied if not outcome.is_dropped]

    async def _learn_sessions(self, batch: pb2.ReportRequest) -> None:
        """Ask the database for sessions another conductor granted."""
        unknown = self._presence.unknown(
            (report.instance_id, report.session_epoch)
            for report in batch.reports
            if report.WhichOneof("report") == "heartbeat"
        )
        if unknown:
            stored = await self._database.read(guests.read_presence, unknown)
            for instance_id, presence in stored.items():
                self._presence.load(instance_id, presence)


def _acknowledge(applied: list[Applied]) -> pb2.ReportResponse:
    return pb2.ReportResponse(
        acknowledgements=[
            pb2.ReportAcknowledgement(
                instance_id=outcome.report.instance_id,
                session_epoch=outcome.report.session_epoch,
                id=outcome.report.report_id,
                refusal_reason=outcome.refusal_reason,
            )
            for outcome in applied
        ]
    )


def _commit(
    session: Session, due: dict[str, Presence], urgent: list[UrgentReport], now: dt.datetime
) -> list[Applied]:
    guests.write_presence(session, due)
    return reports.apply_reports(session, urgent, now=now)


def _presence(report: pb2.GuestReport, observation: Any, now: dt.datetime) -> Presence:
    return Presence.from_observation(
        observation, session_epoch=report.session_epoch, sequence=report.sequence, now=now
    )


def _urgent(report: pb2.GuestReport, now: dt.datetime) -> UrgentReport | None:
    kind = report.WhichOneof("report")
    if kind == "change":
        return UrgentReport(
            instance_id=report.instance_id,
            session_epoch=report.session_epoch,
            report_id=report.change.change_id,
            change=_presence(report, report.change.observation, now),
        )
    if kind == "backup_update":
        update = report.backup_update
        return UrgentReport(
            instance_id=report.instance_id,
            session_epoch=report.session_epoch,
            report_id=update.update_id,
            backup=BackupChange(
                backup_id=clean(update.backup_id, 36),
                state=_backup_state(update.state),
                size_bytes=max(0, update.size_bytes),
                checksum=clean(update.checksum, 128),
                reason=clean(update.reason, 1024),
            ),
        )
    return None


def _backup_state(value: int) -> str:
    if value not in guest_pb2.BackupState.values():
        return ""
    return guest_pb2.BackupState.Name(value).removeprefix("BACKUP_STATE_")  # type: ignore[arg-type]


def _duration(value: dt.timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(value)
    return message
