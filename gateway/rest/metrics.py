"""How long requests and Keystone's word on them take, and who comes too often."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import Counter, Histogram

REST_SECONDS = Histogram(
    "trove_rest_seconds",
    "Time spent answering REST requests, seconds",
    ["method", "route", "code"],
    buckets=(0.005, 0.025, 0.1, 0.5, 2.5, 10),
)
RATE_REFUSED = Counter(
    "trove_rest_rate_refused_total",
    "Requests refused because a tenant's rate is used up",
    ["rate"],
)
AUTHENTICATION_REFUSED = Counter(
    "trove_rest_authentication_refused_total",
    "Requests refused unread because too many of their address had failed to authenticate",
)
KEYSTONE_SECONDS = Histogram(
    "trove_keystone_seconds",
    "Time until Keystone said whether a token is valid, or did not, seconds",
    ["outcome"],
    buckets=(0.005, 0.025, 0.1, 0.5, 2.5, 10),
)
TOKEN_LOOKUPS = Counter(
    "trove_token_lookups_total",
    "Tokens whose facts were remembered, or had to be asked for",
    ["source"],
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})


def observe(request: web.Request, status: int, seconds: float) -> None:
    """Count one request. Routes and methods are known ones: a stranger adds no time series."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "unknown"
    method = request.method if request.method in _METHODS else "other"
    REST_SECONDS.labels(method, route, str(status)).observe(seconds)
