"""The REST API in process, on a loopback port, over whatever control plane a test gives it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from gateway.rest.config import Config
from gateway.rest.control_plane import ControlPlane
from gateway.rest.listener import serve_http

STARTED_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """One response, read."""

    status: int
    text: str
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def message(self) -> str:
        (body,) = self.json.values()
        return body["message"]


class RestClient:
    """Sends requests to one project's endpoint."""

    def __init__(self, session: aiohttp.ClientSession, port: int, project: str = "demo") -> None:
        self._session = session
        self.port = port
        self.root = f"http://127.0.0.1:{port}"
        self.endpoint = f"{self.root}/v1.0/{project}"

    def for_project(self, project: str) -> RestClient:
        return RestClient(self._session, self.port, project)

    async def send(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """Send JSON, or `data=` bytes; `path` is below the project, or absolute with http."""
        url = path if path.startswith("http") else self.endpoint + path
        if body is not None:
            options["json"] = body
        async with self._session.request(method, url, **options) as response:
            return Answer(response.status, await response.text(), dict(response.headers))

    async def send_quoted(self, method: str, path: str, body: Any = None) -> Answer:
        """As `send`, with a path that stays as it is quoted."""
        url = URL(self.endpoint + path, encoded=True)
        async with self._session.request(method, url, json=body) as response:
            return Answer(response.status, await response.text(), dict(response.headers))


@contextlib.asynccontextmanager
async def running_rest(control_plane: ControlPlane, **settings: Any) -> AsyncIterator[RestClient]:
    config = Config(
        **{
            "identity": Path("/nonexistent"),
            "conductor": (),
            "taskmanager": (),
            "issuer": (),
            "listen": "127.0.0.1:0",
        }
        | settings
    )
    stop = asyncio.Event()
    started = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as session:
        group.create_task(serve_http(config, control_plane, stop, started=started))
        async with asyncio.timeout(STARTED_SECONDS):
            port = await started
        try:
            yield RestClient(session, port)
        finally:
            stop.set()
