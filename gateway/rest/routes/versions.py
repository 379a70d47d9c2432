"""What needs no project: API versions, the API's description, the health check."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from aiohttp import web

from gateway.rest.links import Json
from gateway.rest.router import Settings, answer

_UPDATED = "2012-08-01T00:00:00Z"


class Versions:
    """Answers anybody. Trove asks for a token at /v1.0; openstacksdk probes it without one."""

    def __init__(self, settings: Settings, document: Mapping[str, Json]) -> None:
        self._settings = settings
        self._document = json.dumps(document)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.list_versions),
            web.get("/v1.0", self.show_version),
            web.get("/v1.0/", self.show_version),
            web.get("/v1.0/openapi.json", self.show_document),
            web.get("/healthcheck", self.check_health),
        ]

    async def list_versions(self, request: web.Request) -> web.Response:
        return answer({"versions": [self._version(request)]})

    async def show_version(self, request: web.Request) -> web.Response:
        return answer({"version": self._version(request)})

    async def show_document(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._document, content_type="application/json")

    async def check_health(self, request: web.Request) -> web.Response:
        """Whether this process serves, as oslo.middleware's healthcheck says it.

        What lies behind it has health checks of its own: a load balancer that took every API
        process out because the conductor is away would hide the 503 that says so.

        The header tells a supervisor that it asked its own process and not another
        installation's, which may hold the port.
        """
        file = self._settings.healthcheck_disable_file
        disabled = file is not None and file.exists()
        reason, status = ("DISABLED BY FILE", 503) if disabled else ("OK", 200)
        headers = {"X-Process-Id": str(os.getpid())}
        if "application/json" in request.headers.get("Accept", ""):
            body = {"detailed": False, "reasons": [reason]}
            return web.json_response(body, status=status, headers=headers)
        return web.Response(text=reason, status=status, headers=headers)

    def _version(self, request: web.Request) -> dict[str, Json]:
        # The one link that keeps the request's scheme.
        base = self._settings.public_endpoint.rstrip("/") or f"{request.scheme}://{request.host}"
        return {
            "id": "v1.0",
            "status": "CURRENT",
            "updated": _UPDATED,
            "links": [{"rel": "self", "href": f"{base}/v1.0/"}],
        }
