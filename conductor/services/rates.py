"""RateService: slices of tenants' rates for API processes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration

from conductor import rates
from conductor.config import RATES, Rates
from conductor.executor import Database
from conductor.rates import Ended, Window
from conductor.services import checks
from conductor.store import rates as store
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.conductor.v1 import rate_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import rate_service_pb2_grpc

# What a caller may have lost sight of; more are not its own any more.
_MOST_ENDED = 100
_LONGEST_ID = 64


class RateService(rate_service_pb2_grpc.RateServiceServicer):
    """Answers unlimited rates without the database."""

    def __init__(
        self, *, settings: Rates, database: Database, now: Callable[[], dt.datetime]
    ) -> None:
        self._settings = settings
        self._database = database
        self._now = now

    async def LeaseRate(
        self, request: pb2.LeaseRateRequest, _context: Any
    ) -> pb2.LeaseRateResponse:
        tenant_id = checks.require_tenant(request.tenant_id)
        if request.rate not in RATES:
            raise InvalidRequestError(
                f"rate is unknown; known are {', '.join(RATES)}", subject="rate"
            )
        lease_id = checks.require_text(request.lease_id, "lease_id", longest=_LONGEST_ID)
        if len(request.ended) > _MOST_ENDED:
            raise InvalidRequestError(f"ended has more than {_MOST_ENDED} items", subject="ended")
        limit = self._settings.limit(request.rate)
        answer = pb2.LeaseRateResponse(
            limit=limit, lifetime=_duration(self._settings.lifetime.total_seconds())
        )
        if limit != rates.UNLIMITED:
            granted = await self._database.write(
                store.lease,
                tenant_id=tenant_id,
                rate=request.rate,
                lease_id=lease_id,
                ended=[Ended(item.lease_id, item.used) for item in request.ended],
                limit=limit,
                slice_size=self._settings.slice,
                lifetime=self._settings.lifetime,
                now=self._now(),
            )
            answer.granted = granted.amount
            answer.retry_after.CopyFrom(_duration(granted.retry_after))
        return answer

    async def ListRates(
        self, request: pb2.ListRatesRequest, _context: Any
    ) -> pb2.ListRatesResponse:
        windows = await self._database.read(
            store.read_windows,
            tenant_id=checks.require_tenant(request.tenant_id),
            now=self._now(),
        )
        return pb2.ListRatesResponse(
            rates=[
                _message(rate, self._settings.limit(rate), windows.get(rate, Window()))
                for rate in RATES
            ]
        )


def _message(rate: str, limit: int, window: Window) -> pb2.Rate:
    if limit == rates.UNLIMITED:
        return pb2.Rate(rate=rate, limit=limit)
    left = rates.remaining(window, limit)
    return pb2.Rate(
        rate=rate,
        limit=limit,
        remaining=left,
        retry_after=_duration(0.0 if left else rates.free_in(window)),
    )


def _duration(seconds: float) -> Duration:
    message = Duration()
    message.FromTimedelta(dt.timedelta(seconds=seconds))
    return message
