"""Rate limits of tenants, shared with every other API process through slices the conductor leases.

A process lets requests through by the slice it holds and asks for the next when that is used up
or too old, so that a read costs no write but every tenth or so. While the conductor does not
answer it goes on alone, slowly: a slice of its own for each few seconds (ADR 34).
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.rest import metrics
from gateway.rest.ports.rates import Rates
from trove_grpc.errors import QuotaExceededError, TroveError, UnavailableError
from trove_grpc.gen.conductor.v1 import rate_service_pb2 as pb2

log = logging.getLogger(__name__)

GET, POST, PUT, DELETE, MANAGE = "GET", "POST", "PUT", "DELETE", "MANAGE"
_MANAGED = "/mgmt"
# What a process lets through by itself while the conductor is away, and for how long, seconds.
_ALONE_SLICE = 10
_ALONE_SECONDS = 5.0
# A refusal stands so long before the conductor is asked again, seconds: another process may have
# given something back.
_REFUSAL_SECONDS = 1.0
# (tenant, rate) pairs that are remembered; whose turn is longest ago goes first.
_MOST_PAIRS = 10_000
# Slices not yet accounted for; more than these count in full until they are a minute old.
_MOST_ENDED = 20


def rates_of(method: str, path: str) -> tuple[str, ...]:
    """The rates that a request below /v1.0/{project} counts on; PATCH changes as PUT does."""
    if method == "POST" and path.startswith(_MANAGED):
        return (MANAGE, POST)
    return (PUT if method == "PATCH" else method,)


def regex_of(rate: str) -> tuple[str, str, str]:
    """Verb, URI and regular expression by which Trove names a rate."""
    return (POST, f"*{_MANAGED}", f"^{_MANAGED}") if rate == MANAGE else (rate, "*", ".*")


@dataclass(slots=True)
class _Holding:
    """What this process may let through of one rate of one tenant; times are the clock's."""

    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    lease_id: str = ""
    granted: int = 0
    left: int = 0
    expire_time: float = 0.0
    limit: int = 0
    # Set while the conductor is away: `left` is then our own.
    is_alone: bool = False
    refused_until: float = 0.0
    free_time: float = 0.0
    ended: list[pb2.EndedLease] = field(default_factory=list)

    def take(self, now: float) -> bool:
        if self.left and now < self.expire_time:
            self.left -= 1
            return True
        return False

    def end(self) -> None:
        """Give back the slice."""
        if self.lease_id:
            self.ended.append(
                pb2.EndedLease(lease_id=self.lease_id, used=self.granted - self.left)
            )
            del self.ended[:-_MOST_ENDED]
        self.lease_id = ""
        self.left = self.granted = 0


class RateLimiter:
    """Lets requests of tenants through, or raises."""

    def __init__(self, rates: Rates, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rates = rates
        self._clock = clock
        self._holdings: OrderedDict[tuple[str, str], _Holding] = OrderedDict()
        self._is_away = False

    def gate(self, method: str, path: str) -> Callable[[str], Awaitable[None]]:
        """What a route asks for each request, with its tenant; see `admit`."""
        rates = rates_of(method, path)

        async def admit(tenant_id: str) -> None:
            for rate in rates:
                await self.admit(tenant_id, rate)

        return admit

    async def admit(self, tenant_id: str, rate: str) -> None:
        """Let one request through.

        Raises QuotaExceededError (RATE_EXCEEDED) over the limit, UnavailableError over what is
        let through while the conductor is away.
        """
        holding = self._holding(tenant_id, rate)
        if holding.take(self._clock()):
            return
        # One asks for the next slice while the others wait: a second of waiting at most.
        async with holding.asking:
            if holding.take(self._clock()):
                return
            if self._clock() >= holding.refused_until:
                await self._refill(holding, tenant_id, rate)
            if not holding.take(self._clock()):
                metrics.RATE_REFUSED.labels(rate).inc()
                raise self._refusal(holding, rate)

    def held(self, tenant_id: str, rate: str) -> int:
        """What this process may still let through without asking."""
        holding = self._holdings.get((tenant_id, rate))
        if holding is None or holding.is_alone or self._clock() >= holding.expire_time:
            return 0
        return holding.left

    async def _refill(self, holding: _Holding, tenant_id: str, rate: str) -> None:
        holding.end()
        lease_id = str(uuid.uuid4())
        asked_time = self._clock()  # the conductor counts the slice's life from later than this
        request = pb2.LeaseRateRequest(
            tenant_id=tenant_id, rate=rate, lease_id=lease_id, ended=holding.ended
        )
        try:
            answer = await self._rates.lease(request)
        except TroveError as error:
            # Whatever keeps it from answering, also that it is too old to know the call.
            self._go_alone(holding, error)
            # Should it have been granted, none of it was used.
            holding.ended.append(pb2.EndedLease(lease_id=lease_id))
            return
        if self._is_away:
            self._is_away = False
            log.info("the conductor answers again: rates are shared")
        holding.is_alone = False
        holding.ended.clear()
        holding.limit = answer.limit
        holding.expire_time = asked_time + answer.lifetime.ToTimedelta().total_seconds()
        if answer.limit < 0:
            holding.left = sys.maxsize
        elif answer.granted:
            holding.lease_id = lease_id
            holding.granted = holding.left = answer.granted
        else:
            wait = answer.retry_after.ToTimedelta().total_seconds()
            holding.free_time = self._clock() + wait
            holding.refused_until = self._clock() + _REFUSAL_SECONDS

    def _go_alone(self, holding: _Holding, error: TroveError) -> None:
        if not self._is_away:
            self._is_away = True
            log.warning(
                "the conductor leases no rates (%s: %s): this process goes on alone, slowly",
                error.reason,
                error.message,
            )
        holding.is_alone = True
        holding.left = _ALONE_SLICE
        holding.expire_time = self._clock() + _ALONE_SECONDS
        # Used up, it is not to be had again before its time is over.
        holding.refused_until = holding.free_time = holding.expire_time

    def _refusal(self, holding: _Holding, rate: str) -> TroveError:
        wait = max(0.0, holding.free_time - self._clock())
        if holding.is_alone:
            return UnavailableError(
                "The control plane does not answer; until it does, few requests are let through.",
                retry_after=wait,
            )
        verb, uri, _ = regex_of(rate)
        return QuotaExceededError(
            f"Only {holding.limit} {verb} request(s) can be made to {uri} every minute.",
            reason="RATE_EXCEEDED",
            retry_after=wait,
        )

    def _holding(self, tenant_id: str, rate: str) -> _Holding:
        key = (tenant_id, rate)
        if (holding := self._holdings.get(key)) is None:
            holding = self._holdings[key] = _Holding()
            if len(self._holdings) > _MOST_PAIRS:
                self._holdings.popitem(last=False)
        self._holdings.move_to_end(key)
        return holding
