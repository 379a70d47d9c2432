"""What needs no project: API versions and the health check."""

from __future__ import annotations

import os

from aiohttp import web

from gateway.rest.links import Json
from gateway.rest.router import Settings, answer

_UPDATED = "2012-08-01T00:00:00Z"


class Versions:
    """Answers anybody. Trove asks for a token at /v1.0; openstacksdk probes it without one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.list_versions),
            web.get("/v1.0", self.show_version),
            web.get("/v1.0/", self.show_version),
            web.get("/healthcheck", self.check_health),
        ]

    async def list_versions(self, request: web.Request) -> web.Response:
        return answer({"versions": [self._version(request)]})

    async def show_version(self, request: web.Request) -> web.Response:
        return answer({"version": self._version(request)})

    async def check_health(self, _request: web.Request) -> web.Response:
        """Whether this process serves; what lies behind it has health checks of its own.

        The header tells a supervisor that it asked its own process and not another
        installation's, which may hold the port.
        """
        return web.Response(text="OK", headers={"X-Process-Id": str(os.getpid())})

    def _version(self, request: web.Request) -> dict[str, Json]:
        # The one link that keeps the request's scheme.
        base = self._settings.public_endpoint.rstrip("/") or f"{request.scheme}://{request.host}"
        return {
            "id": "v1.0",
            "status": "CURRENT",
            "updated": _UPDATED,
            "links": [{"rel": "self", "href": f"{base}/v1.0/"}],
        }
