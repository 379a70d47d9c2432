"""One stream of reports to the conductor for all guests of this gateway.

* Heartbeats: the latest of each instance is kept, a newer one replaces it; sent together every
  `flush`. While the conductor is away they cost one entry per instance and nothing else.
* Changes and backup updates: sent at once and kept until the conductor acknowledges the commit;
  after a broken stream all of them are sent again. Each session bounds its own; over all guests
  at most `limit` are kept, and one more ends its session with OVERLOADED: the agent, which keeps
  them until acknowledged, sends them again in its next session. So nothing is lost here.

A session that ends takes its reports along: the agent's resending carries them in the next one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from grpc import aio

from gateway.guest import metrics
from gateway.guest.session import Session
from trove_grpc import context, errors, process
from trove_grpc.client import PeerChannel
from trove_grpc.gen.conductor.v1 import report_service_pb2 as report_pb2
from trove_grpc.gen.conductor.v1 import report_service_pb2_grpc as report_rpc
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

log = logging.getLogger(__name__)

# A message stays far below the conductor's limit of 4 MiB: the last report may add 256 KiB.
_BATCH_BYTES = 1024 * 1024
_BATCH_REPORTS = 1000
_FIRST_RETRY_SECONDS = 0.2
_REPORT_ID = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")

Key = tuple[str, str]  # instance id, report id


@dataclass(slots=True)
class _Pending:
    session: Session
    report: report_pb2.GuestReport


class Uplink:
    """Coalesces, sends, resends, and routes acknowledgements back."""

    def __init__(
        self, conductor: PeerChannel, *, flush: float, limit: int, longest_retry: float
    ) -> None:
        self._conductor = conductor
        self._flush = flush
        self._limit = limit
        self._longest_retry = longest_retry
        self._heartbeats: dict[str, tuple[Session, report_pb2.GuestReport]] = {}
        self._pending: dict[Key, _Pending] = {}
        self._unsent: OrderedDict[Key, None] = OrderedDict()
        self._something = asyncio.Event()
        self._urgent = asyncio.Event()
        metrics.UPLINK_LIMIT.set(limit)
        metrics.UPLINK_HEARTBEATS.set_function(self._heartbeats.__len__)

    @property
    def pending(self) -> int:
        return len(self._pending)

    def heartbeat(self, session: Session, sequence: int, heartbeat: guest_pb2.Heartbeat) -> None:
        """Keep the instance's newest heartbeat for the next flush."""
        report = report_pb2.GuestReport(
            instance_id=session.instance_id,
            session_epoch=session.epoch,
            sequence=sequence,
            heartbeat=heartbeat,
        )
        self._heartbeats[session.instance_id] = (session, report)
        self._something.set()

    def change(self, session: Session, sequence: int, change: guest_pb2.Change) -> None:
        """Send a change at once and keep it until acknowledged."""
        report = report_pb2.GuestReport(sequence=sequence, change=change)
        self._add(session, change.change_id, report)

    def backup_update(
        self, session: Session, sequence: int, update: guest_pb2.BackupUpdate
    ) -> None:
        """Send a backup update at once and keep it until acknowledged."""
        report = report_pb2.GuestReport(sequence=sequence, backup_update=update)
        self._add(session, update.update_id, report)

    def forget(self, session: Session) -> None:
        """Drop what an ended session left; a session that took over keeps its own."""
        for key in [key for key, kept in self._pending.items() if kept.session is session]:
            del self._pending[key]
            self._unsent.pop(key, None)
        kept_heartbeat = self._heartbeats.get(session.instance_id)
        if kept_heartbeat is not None and kept_heartbeat[0] is session:
            del self._heartbeats[session.instance_id]
        metrics.UPLINK_PENDING.set(len(self._pending))

    async def run(self, stop: asyncio.Event) -> None:
        """Keep one Report stream to a conductor until `stop`."""
        pause = _FIRST_RETRY_SECONDS
        level = logging.WARNING
        while not stop.is_set():
            began = asyncio.get_running_loop().time()
            why = await self._stream(stop)
            metrics.UPLINK_CONNECTED.set(0)
            # What was sent and not acknowledged may be lost: all of it goes again, in order.
            self._unsent = OrderedDict.fromkeys(self._pending)
            if self._unsent:
                self._something.set()
                self._urgent.set()
            if stop.is_set():
                return
            if asyncio.get_running_loop().time() - began > self._longest_retry:
                pause, level = _FIRST_RETRY_SECONDS, logging.WARNING
            log.log(
                level, "the report stream ended (%s); %d reports go again", why, len(self._pending)
            )
            level = logging.DEBUG  # one line for each outage
            jitter = random.uniform(0.5, 1.5)  # noqa: S311  jitter
            await process.wait_or_timeout(stop, pause * jitter)
            pause = min(self._longest_retry, pause * 2)

    def _add(self, session: Session, report_id: str, report: report_pb2.GuestReport) -> None:
        if not _REPORT_ID.match(report_id):
            raise errors.InvalidRequestError(
                "a report id is 1 to 128 letters, digits, '.', '_', ':' or '-'",
                reason="BAD_REPORT_ID",
            )
        key = (session.instance_id, report_id)
        session.expect_acknowledgement(report_id)
        if key not in self._pending and len(self._pending) >= self._limit:
            raise errors.OverloadedError(
                "too many changes await the conductor; reconnect later", retry_after=10.0
            )
        report.instance_id = session.instance_id
        report.session_epoch = session.epoch
        self._pending[key] = _Pending(session, report)
        self._unsent[key] = None
        metrics.UPLINK_PENDING.set(len(self._pending))
        self._something.set()
        self._urgent.set()

    async def _stream(self, stop: asyncio.Event) -> str:
        """Run one Report stream to its end; returns why it ended.

        A channel closed under the call (our identity was replaced) cancels reader and writer
        from below; for the group that is an ordinary end.
        """
        try:
            stub = self._conductor.stub(report_rpc.ReportServiceStub)
        except errors.UnavailableError as error:
            return error.message
        open_stream: Any = stub.Report  # the stub's type knows no write()
        report = open_stream(metadata=((context.REQUEST_ID_KEY, context.new_request_id()),))
        async with asyncio.TaskGroup() as group:
            tasks = {
                group.create_task(self._read(report), name="uplink-reader"),
                group.create_task(self._write(report), name="uplink-writer"),
                group.create_task(stop.wait(), name="uplink-stop"),
            }
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                why = "stopping"
                if report.done():
                    why = f"{(await report.code()).name}: {await report.details()}"
            finally:
                for task in tasks:
                    task.cancel()
                report.cancel()
        return why

    async def _read(self, report: Any) -> None:
        """Route acknowledgements until the stream ends."""
        try:
            async for response in report:
                for acknowledgement in response.acknowledgements:
                    self._acknowledged(acknowledgement)
        except aio.AioRpcError:
            return  # `_stream` reads the status

    async def _write(self, report: Any) -> None:
        try:
            while True:
                await self._something.wait()
                if not self._unsent:
                    await process.wait_or_timeout(self._urgent, self._flush)
                batch = self._take()
                if batch.reports:
                    await report.write(batch)
                    metrics.UPLINK_CONNECTED.set(1)
        except (aio.AioRpcError, aio.BaseError, asyncio.InvalidStateError):
            return  # the call is over

    def _take(self) -> report_pb2.ReportRequest:
        """The next message: urgent reports first, then heartbeats, as much as fits."""
        batch = report_pb2.ReportRequest()
        size = 0
        while self._unsent and size < _BATCH_BYTES and len(batch.reports) < _BATCH_REPORTS:
            key, _ = self._unsent.popitem(last=False)
            size += _append(batch, self._pending[key].report)
        while self._heartbeats and size < _BATCH_BYTES and len(batch.reports) < _BATCH_REPORTS:
            instance_id = next(iter(self._heartbeats))
            size += _append(batch, self._heartbeats.pop(instance_id)[1])
        if not self._unsent:
            self._urgent.clear()
            if not self._heartbeats:
                self._something.clear()
        return batch

    def _acknowledged(self, acknowledgement: report_pb2.ReportAcknowledgement) -> None:
        key = (acknowledgement.instance_id, acknowledgement.id)
        kept = self._pending.get(key)
        if kept is None:
            return
        if acknowledgement.refusal_reason:
            if acknowledgement.session_epoch != kept.session.epoch:
                return  # refused for an older session; the present one's sending decides
            log.warning(
                "the conductor refused report %s of %s: %s",
                acknowledgement.id,
                acknowledgement.instance_id,
                acknowledgement.refusal_reason,
            )
            metrics.DROPPED.labels("refused_report").inc()
        del self._pending[key]
        self._unsent.pop(key, None)
        metrics.UPLINK_PENDING.set(len(self._pending))
        kept.session.acknowledge(acknowledgement.id)


def _append(batch: report_pb2.ReportRequest, report: report_pb2.GuestReport) -> int:
    batch.reports.append(report)
    return report.ByteSize()
