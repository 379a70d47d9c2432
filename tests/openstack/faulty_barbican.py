"""A proxy before the real Barbican that gives the answers a healthy one cannot be made to give."""

from __future__ import annotations

import functools
import http.client
import http.server
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass(frozen=True)
class Answer:
    """Given in Barbican's place; it never sees the request."""

    status: int
    body: bytes = b'{"title": "made up"}'
    content_type: str = "application/json"


class Held:
    """No answer until the proxy closes; Barbican never sees the request."""


class Lost:
    """Barbican does what was asked; its answer never arrives."""


Verdict = Answer | Held | Lost | None


class FaultyBarbican:
    """Asks `rule(method, path)` for each request; None lets it pass."""

    def __init__(self, upstream_port: int, region: str) -> None:
        self.region = region
        self.rule: Callable[[str, str], Verdict] = lambda _method, _path: None
        self.released = threading.Event()
        self.upstream_port = upstream_port
        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(_Handler, self)
        )
        self._thread = threading.Thread(target=self._server.serve_forever, name="faulty-barbican")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, proxy: FaultyBarbican, *arguments: Any) -> None:
        self._proxy = proxy
        super().__init__(*arguments)

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.close_connection = True
        match self._proxy.rule(self.command, self.path):
            case Answer() as answer:
                self._respond(answer.status, {"Content-Type": answer.content_type}, answer.body)
            case Held():
                self._proxy.released.wait()
            case Lost():
                self._ask_barbican(body)
            case None:
                self._respond(*self._ask_barbican(body))

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Tests say what they saw."""

    def _ask_barbican(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self._proxy.upstream_port)
        try:
            # The caller's Host goes along: references lead back through here.
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            upstream.close()

    def _respond(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
