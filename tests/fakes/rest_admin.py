"""The REST API where callers of one project are administrators."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from gateway.rest.app import build_app
from gateway.rest.auth import Caller
from gateway.rest.control_plane import ControlPlane
from gateway.rest.cors import CrossOrigin
from gateway.rest.policy import Policy
from gateway.rest.router import Settings
from tests.fakes.rest_server import RestClient

ADMIN_PROJECT = "admin-1000"


class AdminsOfOneProject:
    """Trusts everybody; callers of ADMIN_PROJECT are administrators."""

    challenge = ""

    def check_listen(self, host: str) -> None:
        """Nothing is unsafe in a test."""

    async def authenticate(self, _request: web.Request, project_id: str) -> Caller:
        return Caller(project_id=project_id, is_admin=project_id == ADMIN_PROJECT)


@contextlib.asynccontextmanager
async def running_rest_with_admins(control_plane: ControlPlane) -> AsyncIterator[RestClient]:
    """A client of the administrators' project; `for_project` gives others."""
    settings = Settings(
        region="RegionOne",
        public_endpoint="",
        max_body_bytes=114_688,
        body_timeout=dt.timedelta(seconds=5),
        request_timeout=dt.timedelta(seconds=5),
    )
    cross_origin = CrossOrigin((), max_age=dt.timedelta(0))
    app = build_app(control_plane, AdminsOfOneProject(), Policy(), settings, cross_origin)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            yield RestClient(session, int(runner.addresses[0][1]), ADMIN_PROJECT)
    finally:
        await runner.cleanup()
