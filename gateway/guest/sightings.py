"""Tells the issuer which guests are here, what they hold, and which clones are suspected.

Rotations wait for what guests hold, and operators look at who is there. A change is told within
`flush` seconds; everybody is told again each `refresh` and whenever the issuer is back, so nothing
depends on any single report. The newest sighting of each instance is kept, at most `limit` of
them, and at most that many suspicions; beyond it they are dropped until the next refresh.
What a guest says of itself is told as it is, within bounds: it decides about nobody else.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import re
from collections.abc import Iterator
from itertools import islice

from google.protobuf import duration_pb2

from gateway.guest import metrics
from gateway.guest.registry import Registry
from gateway.guest.session import Session
from trove_grpc import errors
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as watch_pb
from trove_grpc.gen.issuer.v1 import watch_service_pb2_grpc as watch_rpc

log = logging.getLogger(__name__)

_PAGE = 1000
_SUSPICIONS_PAGE = 100
_LAST_WORDS_SECONDS = 1.0
# Between attempts while the issuer does not take it: doubled from the first up to the last.
_FIRST_PAUSE_SECONDS = 0.1
_LAST_PAUSE_SECONDS = 5.0
_MAX_BUNDLE_VERSION = 2**31
_SERIAL = re.compile(r"\A[0-9a-f]{1,64}\Z")


class Reporter:
    """Collects what is seen and sends it in batches."""

    def __init__(
        self,
        issuer: PeerChannel,
        registry: Registry,
        *,
        gateway_id: str,
        flush: float,
        refresh: float,
        limit: int,
        timeout: float,
    ) -> None:
        self._issuer = issuer
        self._registry = registry
        self._gateway_id = gateway_id
        self._flush = flush
        self._refresh = refresh
        self._limit = limit
        self._timeout = timeout
        self._sightings: dict[str, watch_pb.GuestSighting] = {}
        self._suspicions: dict[str, watch_pb.CloneSuspicion] = {}
        self._something = asyncio.Event()
        self._is_failing = False

    def saw(self, session: Session) -> None:
        """A guest is here, or holds something else than before."""
        sighting = watch_pb.GuestSighting(
            instance_id=session.instance_id,
            serial=session.serial,
            bundle_version=max(0, min(session.bundle_version, _MAX_BUNDLE_VERSION)),
            engine_serial=_serial(session.engine_serial),
            clock_skew=session.clock_skew,
        )
        sighting.seen_time.GetCurrentTime()
        self._keep(sighting)

    def left(self, session: Session) -> None:
        """A session ended; its successor counts where there is one."""
        successors = self._registry.of(session.instance_id)
        if successors:
            self.saw(successors[0])
            return
        gone = watch_pb.GuestSighting(
            instance_id=session.instance_id, serial=session.serial, is_gone=True
        )
        gone.seen_time.GetCurrentTime()
        self._keep(gone)

    def suspect(self, rival: Session, newcomer_serial: str, detail: str) -> None:
        """Another boot dialled beside a live session."""
        if rival.instance_id not in self._suspicions and len(self._suspicions) >= self._limit:
            metrics.DROPPED.labels("suspicion").inc()
            return
        suspicion = watch_pb.CloneSuspicion(
            instance_id=rival.instance_id,
            serial=rival.serial,
            newcomer_serial=newcomer_serial,
            detail=detail,
        )
        suspicion.seen_time.GetCurrentTime()
        self._suspicions[rival.instance_id] = suspicion
        self._something.set()

    def tell_all(self) -> None:
        """The issuer may have forgotten, or never heard: tell of everybody again."""
        for session in self._registry:
            if session.is_live:
                self.saw(session)

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            repeating = group.create_task(self._repeat(), name="sightings-refresh")
            reporting = group.create_task(self._report(), name="sightings-report")
            await stop.wait()
            repeating.cancel()
            reporting.cancel()
            # Every session has ended by now: say so rather than have it found out.
            await self._send(_LAST_WORDS_SECONDS)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self._refresh)
            self.tell_all()

    async def _report(self) -> None:
        waiting = pauses()
        while True:
            await self._something.wait()
            await asyncio.sleep(self._flush)  # what else happens now shares the message
            self._something.clear()
            if await self._send(self._timeout):
                waiting = pauses()
            else:
                self._something.set()
                await asyncio.sleep(next(waiting))

    async def _send(self, timeout: float) -> bool:
        """Tell all there is; whether the issuer took it."""
        while self._sightings or self._suspicions:
            request = watch_pb.ReportGuestsRequest(
                gateway_id=self._gateway_id,
                sightings=list(islice(self._sightings.values(), _PAGE)),
                suspicions=list(islice(self._suspicions.values(), _SUSPICIONS_PAGE)),
            )
            try:
                stub = self._issuer.stub(watch_rpc.WatchServiceStub)
                await call(stub.ReportGuests, request, timeout=timeout)
            except errors.TroveError as error:
                if not self._is_failing:
                    log.warning("cannot tell the issuer of guests: %s", error.message)
                self._is_failing = True
                return False
            self._is_failing = False
            self._forget(request)
        return True

    def _forget(self, told: watch_pb.ReportGuestsRequest) -> None:
        """Drop what was told, but not what is newer."""
        for sighting in told.sightings:
            if self._sightings.get(sighting.instance_id) == sighting:
                del self._sightings[sighting.instance_id]
        for suspicion in told.suspicions:
            if self._suspicions.get(suspicion.instance_id) == suspicion:
                del self._suspicions[suspicion.instance_id]

    def _keep(self, sighting: watch_pb.GuestSighting) -> None:
        known = self._sightings.pop(sighting.instance_id, None)
        if known is None and len(self._sightings) >= self._limit:
            metrics.DROPPED.labels("sighting").inc()
            return
        self._sightings[sighting.instance_id] = sighting
        self._something.set()


def pauses() -> Iterator[float]:
    """Seconds between attempts while they fail, however short `flush` is."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, _LAST_PAUSE_SECONDS)


def clock_skew(hello: guest_pb2.Hello) -> duration_pb2.Duration | None:
    """The guest's clock less ours; None where it says no time that there is."""
    if not hello.HasField("guest_time"):
        return None
    try:
        skew = hello.guest_time.ToDatetime(dt.UTC) - dt.datetime.now(dt.UTC)
    except (ValueError, OverflowError):
        return None
    metrics.CLOCK_SKEW.observe(abs(skew.total_seconds()))
    told = duration_pb2.Duration()
    told.FromTimedelta(skew)
    return told


def _serial(text: str) -> str:
    """What a guest claims to be a serial, where it looks like one."""
    return text if _SERIAL.match(text) else ""
