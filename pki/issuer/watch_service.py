"""WatchService: tells gateways and services what is new, and hears of guests what gateways see.

Bounded: at most `watchers_limit` watchers, a few of one name, each of which holds a position and
nothing else; a report has at most a thousand sightings and a hundred suspicions.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from google.protobuf import duration_pb2, timestamp_pb2
from sqlalchemy.orm import Session

from pki import metrics
from pki.issuer import answers, checks, quarantine
from pki.issuer.config import Config
from pki.issuer.news import News, State
from pki.models import Denial
from pki.store import Store, denials, sightings
from trove_grpc.context import caller as present_caller
from trove_grpc.errors import InvalidRequestError, OverloadedError
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import watch_service_pb2_grpc as rpc
from trove_grpc.identity import Identity

_PAGE = 1000
# Of one name: one for each process of that role on its host, and as many that have not ended yet.
# Without it one that was taken over could keep all others from watching.
_STREAMS_OF_ONE = 16
_MAX_SIGHTINGS = 1000
_MAX_SUSPICIONS = 100
_GATEWAY_ID = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_SERIAL = re.compile(r"\A[0-9a-f]{0,64}\Z")
# What a clock may differ and still be told in milliseconds: a year.
_MOST_SKEW = dt.timedelta(days=366)
_MILLISECOND = dt.timedelta(milliseconds=1)


class WatchServicer(rpc.WatchServiceServicer):
    """Serves WatchService on the internal listener."""

    def __init__(
        self,
        store: Store,
        news: News,
        config: Config,
        *,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._store = store
        self._news = news
        self._config = config
        self._now = now
        self._watchers: Counter[str] = Counter()  # by URI

    async def Watch(
        self, request: pb.WatchRequest, context: Any
    ) -> AsyncIterator[pb.WatchResponse]:
        caller = present_caller()
        watchers = self._watchers.total()
        if (
            watchers >= self._config.watchers_limit
            or self._watchers[caller.uri] >= _STREAMS_OF_ONE
        ):
            raise OverloadedError(
                f"{watchers} streams to gateways and services are open, "
                f"{self._watchers[caller.uri]} of them to {caller.uri}; ListDenials answers",
                retry_after=30.0,
            )
        self._watchers[caller.uri] += 1
        metrics.WATCHERS.set(self._watchers.total())
        try:
            async for response in self._follow(caller, request.after_sequence):
                yield response
        finally:
            self._watchers -= Counter((caller.uri,))  # forgets whom it does not count any more
            metrics.WATCHERS.set(self._watchers.total())

    async def ReportGuests(self, request: pb.ReportGuestsRequest, context: Any) -> Any:
        gateway_id = _gateway_id(request.gateway_id)
        if len(request.sightings) > _MAX_SIGHTINGS or len(request.suspicions) > _MAX_SUSPICIONS:
            raise InvalidRequestError(
                f"at most {_MAX_SIGHTINGS} sightings and {_MAX_SUSPICIONS} suspicions in a report"
            )
        now = self._now()
        seen = [_sighting(each, now) for each in request.sightings]
        suspected = [_suspicion(each) for each in request.suspicions]
        actor = present_caller().uri

        def quarantine_all(session: Session) -> None:
            for instance_id, detail in suspected:
                quarantine.begin(
                    session, instance_id, quarantine.CLONE, actor=actor, now=now, detail=detail
                )

        if suspected:
            await self._store.run(quarantine_all)
        if seen:
            unknown = await self._store.run(
                lambda session: sightings.record(session, gateway_id, seen)
            )
            metrics.SIGHTINGS_IGNORED.inc(unknown)
        return pb.ReportGuestsResponse()

    async def _follow(self, caller: Identity, known: int) -> AsyncIterator[pb.WatchResponse]:
        """What is new after `known`, then each change, then signs of life; never ends by itself.

        The authority of a stream is that of its opening: that it was denied since is seen here.
        """
        pause = self._config.watch_interval.total_seconds()
        state = self._news.state
        while True:
            if (refusal := self._news.refused.refusal(caller)) is not None:
                raise refusal
            if state.head_sequence < known:
                known = 0  # our database was restored: the watcher may lack what was written since
            page = await self._page(state, known)
            yield _response(state, page)
            if page:
                known = page[-1].sequence
            if page and known < state.head_sequence:
                state = self._news.state
            else:
                state = await self._news.state_after(state, pause)

    async def _page(self, state: State, known: int) -> Sequence[Denial]:
        if state.head_sequence <= known:
            return ()
        return await self._store.run(lambda session: denials.after(session, known, _PAGE))


def _response(state: State, page: Sequence[Denial]) -> pb.WatchResponse:
    return pb.WatchResponse(
        denials=[answers.denial(row) for row in page],
        head_sequence=state.head_sequence,
        bundle_version=state.bundle_version,
        directives=state.directives,
        quarantined_instance_ids=state.quarantined_ids,
    )


def _gateway_id(value: str) -> str:
    if not _GATEWAY_ID.match(value):
        raise InvalidRequestError(
            f"gateway_id {value[:80]!r} must be 1 to 128 letters, digits, '.', '_' or '-'"
        )
    return value


def _serial(value: str, field: str) -> str:
    if not _SERIAL.match(value):
        raise InvalidRequestError(f"{field} {value[:80]!r} is no serial in hexadecimal")
    return value


def _sighting(message: pb.GuestSighting, now: dt.datetime) -> sightings.Sighting:
    return sightings.Sighting(
        instance_id=checks.instance_id(message.instance_id),
        serial=_serial(message.serial, "serial"),
        engine_serial=_serial(message.engine_serial, "engine_serial"),
        bundle_version=max(0, message.bundle_version),
        is_gone=message.is_gone,
        clock_skew_ms=_milliseconds(message.clock_skew)
        if message.HasField("clock_skew")
        else None,
        # A gateway whose clock is ahead must not outdate what the others see.
        seen_time=min(now, _moment(message.seen_time) if message.HasField("seen_time") else now),
    )


def _suspicion(message: pb.CloneSuspicion) -> tuple[str, dict[str, str]]:
    return checks.instance_id(message.instance_id), {
        "serial": _serial(message.serial, "serial"),
        "newcomer": _serial(message.newcomer_serial, "newcomer_serial"),
        "told": message.detail[: checks.MAX_REASON],
    }


def _moment(stamp: timestamp_pb2.Timestamp) -> dt.datetime:
    try:
        return stamp.ToDatetime(dt.UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError("seen_time is no time") from error


def _milliseconds(duration: duration_pb2.Duration) -> int:
    try:
        skew = duration.ToTimedelta()
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError("clock_skew is no duration") from error
    return round(max(-_MOST_SKEW, min(_MOST_SKEW, skew)) / _MILLISECOND)
