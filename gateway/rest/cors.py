"""Cross-origin requests of browsers, as oslo.middleware's cors answers them.

The API's credentials are a header that scripts set themselves, so browsers are never told that
they may send cookies along.
"""

from __future__ import annotations

import datetime as dt
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from trove_grpc.errors import InvalidRequestError

_EVERYBODY = "*"
_METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH", "HEAD")
# What browsers let pass anyhow, and what this API reads.
_SIMPLE_HEADERS = (
    "Accept",
    "Accept-Language",
    "Content-Type",
    "Cache-Control",
    "Content-Language",
    "Expires",
    "Last-Modified",
    "Pragma",
)
_HEADERS = (
    "X-Auth-Token",
    "X-Service-Token",
    "X-OpenStack-Request-ID",
    "X-Idempotency-Key",
    "If-Match",
    "If-None-Match",
)
_EXPOSED = (
    "X-OpenStack-Request-ID",
    "X-Trove-Operation-Id",
    "Retry-After",
    "WWW-Authenticate",
    "ETag",
)


class CrossOrigin:
    """Lets scripts of the allowed origins read answers; without one it does nothing."""

    def __init__(self, allowed_origins: tuple[str, ...], *, max_age: dt.timedelta) -> None:
        """Raises InvalidRequestError for what is no origin."""
        for origin in allowed_origins:
            _check_origin(origin)
        self._allowed = frozenset(allowed_origins)
        self._max_age = str(int(max_age.total_seconds()))
        self._headers = {name.lower() for name in (*_SIMPLE_HEADERS, *_HEADERS)}

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN, "")
        if not self._allowed or not origin:
            return await handler(request)
        if self._is_preflight(request):
            response: web.StreamResponse = web.Response()
            if self._is_allowed(origin) and self._may_send(request):
                self._admit(response, origin)
                response.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = self._max_age
                response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = ",".join(_METHODS)
                response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = ",".join(
                    (*_SIMPLE_HEADERS, *_HEADERS)
                )
        else:
            response = await handler(request)
            if self._is_allowed(origin):
                self._admit(response, origin)
                response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ",".join(_EXPOSED)
        # Caches must not hand the answer for one origin to another.
        response.headers.add(hdrs.VARY, "Origin")
        return response

    def _is_preflight(self, request: web.Request) -> bool:
        return (
            request.method == hdrs.METH_OPTIONS
            and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        )

    def _is_allowed(self, origin: str) -> bool:
        return origin in self._allowed or _EVERYBODY in self._allowed

    def _may_send(self, request: web.Request) -> bool:
        headers = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
        asked = {name.strip().lower() for name in headers.split(",") if name.strip()}
        method = request.headers[hdrs.ACCESS_CONTROL_REQUEST_METHOD]
        return method in _METHODS and asked <= self._headers

    def _admit(self, response: web.StreamResponse, origin: str) -> None:
        allowed = _EVERYBODY if _EVERYBODY in self._allowed else origin
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = allowed


def _check_origin(origin: str) -> None:
    parts = urlsplit(origin)
    if origin == _EVERYBODY or (origin == f"{parts.scheme}://{parts.netloc}" and parts.netloc):
        return
    raise InvalidRequestError(
        f"cors_allowed_origins: {origin!r} is not 'https://host[:port]' without a path, or '*'"
    )
