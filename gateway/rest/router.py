"""From an HTTP request to a handler's call: who asks, for which project, with which links."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from gateway.rest import body
from gateway.rest.auth import Authenticator, Caller
from gateway.rest.fields import Fields, invalid, is_clean
from gateway.rest.links import Json, Links
from trove_grpc import context
from trove_grpc.errors import InvalidRequestError, NotFoundError
from trove_grpc.identity import TENANT_ID

# Trove's page size; a larger limit is clamped to it without a word.
MAX_PAGE = 20
_MAX_LIMIT_DIGITS = 18
_MAX_MARKER = 255
# Set when the process stops: what answers for long ends then.
CLOSING: web.AppKey[asyncio.Event] = web.AppKey("closing", asyncio.Event)
# Ours: which operation a request has started; GET /operations/{id} follows it.
OPERATION_ID_HEADER = "X-Trove-Operation-Id"
# The project becomes part of its guests' certificate names.
_PROJECT_ID = re.compile(TENANT_ID, re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What of the process's settings matters to requests."""

    region: str
    public_endpoint: str
    max_body_bytes: int
    body_timeout: dt.timedelta
    request_timeout: dt.timedelta
    healthcheck_disable_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a list is asked for."""

    limit: int
    marker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetPage:
    """Which part of a list is asked for, where pages are counted."""

    limit: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One authenticated request."""

    http: web.Request
    caller: Caller
    links: Links
    settings: Settings

    @property
    def project_id(self) -> str:
        return self.caller.project_id

    def segment(self, name: str) -> str:
        """A part of the path, decoded. What no id or name can be is not found."""
        value = self.http.match_info[name]
        if not is_clean(value):
            raise NotFoundError("Resource cannot be found: its name is not readable text.")
        return value

    async def fields(self, root: str) -> Fields:
        """The object under `root` of the body."""
        return await body.read_root(
            self.http,
            root,
            limit=self.settings.max_body_bytes,
            timeout=self.settings.body_timeout.total_seconds(),
        )

    async def object(self) -> dict[str, object]:
        """The body's JSON object."""
        return await body.read_object(
            self.http,
            limit=self.settings.max_body_bytes,
            timeout=self.settings.body_timeout.total_seconds(),
        )

    async def object_or_nothing(self) -> dict[str, Any]:
        """The body's JSON object; an empty one where there is no body."""
        return await self.object() if self.http.can_read_body else {}

    def page(self, *, longest_marker: int = _MAX_MARKER) -> Page:
        """Raises InvalidRequestError for a limit that is none; Trove fails with 500."""
        marker = self.http.query.get("marker", "")
        if len(marker) > longest_marker or not is_clean(marker):
            raise invalid("marker", "is not the id of the last item of a page")
        return Page(limit=self._limit(), marker=marker)

    def offset_page(self) -> OffsetPage:
        """Where Trove's marker is the number of items before the page."""
        marker = self.http.query.get("marker", "0")
        if not (marker.isascii() and marker.isdigit() and len(marker) <= _MAX_LIMIT_DIGITS):
            raise invalid("marker", "is not the number of the items before a page")
        return OffsetPage(limit=self._limit(), offset=int(marker))

    def filters(self, *names: str) -> dict[str, str]:
        """Those of the named parameters that are there, for a link to the next page."""
        return {name: self.http.query[name] for name in names if name in self.http.query}

    def _limit(self) -> int:
        limit = self.http.query.get("limit", str(MAX_PAGE))
        if not (limit.isascii() and limit.isdigit() and int(limit[:_MAX_LIMIT_DIGITS]) > 0):
            raise InvalidRequestError("limit must be a whole number of at least 1.")
        return min(MAX_PAGE, int(limit[:_MAX_LIMIT_DIGITS]))


Handler = Callable[[Call], Awaitable[web.StreamResponse]]
Route = tuple[str, str, Handler]


class Routes(Protocol):
    """A group of routes below /v1.0/{project}."""

    def routes(self) -> list[Route]: ...


# Lets a request of a tenant through or raises.
Gate = Callable[[str], Awaitable[None]]


def bind(
    handler: Handler,
    authenticator: Authenticator,
    gate: Gate,
    permit: Callable[[Call], Awaitable[None]],
    settings: Settings,
) -> HttpHandler:
    """The web framework's handler for ours; `permit` raises for what the caller may not."""

    async def handle(request: web.Request) -> web.StreamResponse:
        project_id = request.match_info["project"]
        if not _PROJECT_ID.fullmatch(project_id):
            raise InvalidRequestError(
                "The project id in the path may have lower-case letters, digits, '-' and '_' "
                "only, 64 at most."
            )
        caller = await authenticator.authenticate(request, project_id)
        links = Links(base=public_base(request, settings), project_id=project_id)
        call = Call(http=request, caller=caller, links=links, settings=settings)
        with (
            context.bound(project=project_id),
            context.deadline_in(settings.request_timeout.total_seconds()),
        ):
            await gate(project_id)
            await permit(call)
            return await handler(call)

    return handle


HttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def public_base(request: web.Request, settings: Settings) -> str:
    return settings.public_endpoint.rstrip("/") or f"https://{request.host}"


def answer(value: Json, *, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)


def accepted() -> web.Response:
    """202 without a body."""
    return web.Response(status=202, content_type="application/json")


def started(response: web.Response, operation_id: str) -> web.Response:
    """The answer to a request that has started an operation, with that operation's id."""
    response.headers[OPERATION_ID_HEADER] = operation_id
    return response
