"""Rates in memory; tests/integration/gateway_rest holds it to the conductor's contract."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping, Sequence

from trove_grpc.errors import TroveError
from trove_grpc.gen.conductor.v1 import rate_service_pb2 as pb2

RATES = ("GET", "POST", "PUT", "DELETE", "MANAGE")
SLICE = 10
LIFETIME = dt.timedelta(seconds=5)
MINUTE = dt.timedelta(minutes=1)
# More than any test sends, so that only those of rates meet one.
MANY = 100_000


class FakeRates:
    """Counts every slice for itself. Time goes as `now` says."""

    def __init__(
        self,
        limits: Mapping[str, int] | None = None,
        *,
        now: Callable[[], dt.datetime] | None = None,
    ) -> None:
        self.limits = dict.fromkeys(RATES, MANY) | dict(limits or {})
        self.now = now or (lambda: dt.datetime.now(dt.UTC))
        self.asked: list[pb2.LeaseRateRequest] = []
        self.failure: TroveError | None = None
        # (tenant, rate) -> lease id -> amount and when it is forgotten.
        self._leases: dict[tuple[str, str], dict[str, tuple[int, dt.datetime]]] = {}

    async def lease(self, request: pb2.LeaseRateRequest) -> pb2.LeaseRateResponse:
        await asyncio.sleep(0)  # a real answer lets others run, too
        if self.failure is not None:
            raise self.failure
        copy = pb2.LeaseRateRequest()
        copy.CopyFrom(request)
        self.asked.append(copy)
        limit = self.limits[request.rate]
        answer = pb2.LeaseRateResponse(limit=limit)
        answer.lifetime.FromTimedelta(LIFETIME)
        if limit < 0:
            return answer
        leases = self._counted(request.tenant_id, request.rate)
        for ended in request.ended:
            if ended.lease_id in leases:
                leases[ended.lease_id] = (ended.used, self.now() + MINUTE)
        if request.lease_id not in leases:
            free = limit - sum(amount for amount, _ in leases.values())
            leases[request.lease_id] = (min(SLICE, -(-free // 2)), self.now() + LIFETIME + MINUTE)
        answer.granted = leases[request.lease_id][0]
        if not answer.granted:
            del leases[request.lease_id]
            answer.retry_after.FromTimedelta(self._free_in(leases))
        return answer

    async def list_rates(self, tenant_id: str) -> Sequence[pb2.Rate]:
        if self.failure is not None:
            raise self.failure
        return [self._rate(tenant_id, rate) for rate in RATES]

    def _rate(self, tenant_id: str, rate: str) -> pb2.Rate:
        limit = self.limits[rate]
        if limit < 0:
            return pb2.Rate(rate=rate, limit=limit)
        leases = self._counted(tenant_id, rate)
        message = pb2.Rate(
            rate=rate,
            limit=limit,
            remaining=max(0, limit - sum(amount for amount, _ in leases.values())),
        )
        if not message.remaining:
            message.retry_after.FromTimedelta(self._free_in(leases))
        return message

    def _counted(self, tenant_id: str, rate: str) -> dict[str, tuple[int, dt.datetime]]:
        leases = self._leases.setdefault((tenant_id, rate), {})
        for lease_id in [key for key, (_, until) in leases.items() if until <= self.now()]:
            del leases[lease_id]
        return leases

    def _free_in(self, leases: Mapping[str, tuple[int, dt.datetime]]) -> dt.timedelta:
        ends = [until for amount, until in leases.values() if amount]
        return min(ends) - self.now() if ends else dt.timedelta()
