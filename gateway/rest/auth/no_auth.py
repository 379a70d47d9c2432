"""For one machine and its one user: nobody says who he is."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from aiohttp import web

from gateway.rest.auth.contract import Caller
from trove_grpc.errors import InvalidRequestError, PermissionDeniedError


class NoAuth:
    """Everybody on this machine is a member of every project: for `--auth none` on loopback.

    A web page must not get in through its visitor's browser: requests that carry an Origin, or
    a Host that is a name somebody else could point here (DNS rebinding), are refused.
    """

    challenge = ""

    def __init__(self, *, public_endpoint: str = "") -> None:
        self._public_host = urlsplit(public_endpoint).hostname or ""

    def check_listen(self, host: str) -> None:
        if not _is_loopback(host):
            raise InvalidRequestError(
                f"auth = 'none' lets everybody in, so it listens on a loopback address only, "
                f"not on {host!r}; use 127.0.0.1 or [::1]",
                reason="UNSAFE_LISTEN",
            )

    async def authenticate(self, request: web.Request, project_id: str) -> Caller:
        if "Origin" in request.headers:
            raise PermissionDeniedError(
                "Without authentication this API does not answer web pages (Origin header)."
            )
        host = _hostname(request.host)
        if not (_is_loopback(host) or _is_address(host) or host == self._public_host):
            raise PermissionDeniedError(
                "Without authentication this API answers to 'localhost', IP addresses and the "
                "host of public_endpoint; the request's Host header names something else."
            )
        return Caller(project_id=project_id, roles=("member",))


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    bare = host.strip("[]")
    return bare == "localhost" or (_is_address(bare) and ipaddress.ip_address(bare).is_loopback)
