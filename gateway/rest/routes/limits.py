"""GET /limits: a project's quotas, and what is left of its rates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from aiohttp import web

from gateway.rest import rates
from gateway.rest.control_plane import ControlPlane
from gateway.rest.links import Json
from gateway.rest.rates import RateLimiter
from gateway.rest.router import Call, Route, answer
from trove_grpc.gen.conductor.v1 import instance_service_pb2, rate_service_pb2

# As Trove lists them.
_ORDER = (rates.POST, rates.PUT, rates.DELETE, rates.GET, rates.MANAGE)


class Limits:
    """One route; the quotas' administration is elsewhere."""

    def __init__(self, control_plane: ControlPlane, limiter: RateLimiter) -> None:
        self._control_plane = control_plane
        self._limiter = limiter

    def routes(self) -> list[Route]:
        return [("GET", "/limits", self.list_limits)]

    async def list_limits(self, call: Call) -> web.Response:
        resources = await self._control_plane.get_quota(call.project_id)
        found = {
            item.rate: item for item in await self._control_plane.rates.list_rates(call.project_id)
        }
        limited = [found[rate] for rate in _ORDER if rate in found and found[rate].limit >= 0]
        now = dt.datetime.now(dt.UTC)
        return answer(
            {
                "limits": [
                    _absolute(resources),
                    *(self._rate(call.project_id, item, now) for item in limited),
                ]
            }
        )

    def _rate(self, project_id: str, item: rate_service_pb2.Rate, now: dt.datetime) -> Json:
        # What lies here unused is to be had as well; what other processes hold is not.
        remaining = item.remaining + self._limiter.held(project_id, item.rate)
        free = now if remaining else now + item.retry_after.ToTimedelta()
        verb, uri, regex = rates.regex_of(item.rate)
        return {
            "verb": verb,
            "uri": uri,
            "regex": regex,
            "unit": "MINUTE",
            "value": item.limit,
            "remaining": remaining,
            "nextAvailable": free.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def _absolute(resources: Iterable[instance_service_pb2.QuotaResource]) -> dict[str, Json]:
    limits: dict[str, Json] = {"verb": "ABSOLUTE"}
    return limits | {f"max_{item.resource}": item.limit for item in resources}
