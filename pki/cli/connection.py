"""The way to the issuer: its local socket, or mutual TLS with an operator's certificate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from grpc import aio

from trove_grpc import client
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.issuer.v1 import (
    agent_service_pb2_grpc,
    audit_service_pb2_grpc,
    authority_service_pb2_grpc,
    breakglass_service_pb2_grpc,
    federation_service_pb2_grpc,
    issuer_service_pb2_grpc,
)
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory

# For one call, seconds; verifying a long audit takes longest.
_TIMEOUT = 30.0
_PAGE = 1000


class Issuer:
    """The issuer's services on one channel."""

    def __init__(self, channel: aio.Channel) -> None:
        self.issuer = issuer_service_pb2_grpc.IssuerServiceStub(channel)
        self.authorities = authority_service_pb2_grpc.AuthorityServiceStub(channel)
        self.agents = agent_service_pb2_grpc.AgentServiceStub(channel)
        self.audit = audit_service_pb2_grpc.AuditServiceStub(channel)
        self.federation = federation_service_pb2_grpc.FederationServiceStub(channel)
        self.breakglass = breakglass_service_pb2_grpc.BreakglassServiceStub(channel)

    async def call(self, method: Any, request: Any, *, retry: bool = True) -> Any:
        """One call; `retry=False` for the few that are not idempotent."""
        return await client.call(method, request, timeout=_TIMEOUT, retry=retry)

    async def pages(self, method: Any, request: Any, field: str) -> list[Any]:
        """Everything that a listing has, page by page."""
        found: list[Any] = []
        request.page_size = _PAGE
        while True:
            page = await self.call(method, request)
            found += getattr(page, field)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found


@contextlib.asynccontextmanager
async def open_issuer(
    *, socket: Path | None, issuer: str | None, identity: Path | None
) -> AsyncIterator[Issuer]:
    """Connect as the options say; without any, to the socket of this user's installation."""
    if issuer is not None:
        if socket is not None:
            raise InvalidRequestError("--socket and --issuer are two ways to one place: give one")
        if identity is None:
            raise InvalidRequestError(
                "--issuer needs --identity: a directory that `trove-pki operator issue` filled"
            )
        channel = client.open_channel(
            [issuer], IdentityDirectory(identity), server_role=Role.ISSUER
        )
    else:
        if identity is not None:
            raise InvalidRequestError(
                "--identity says who we are at --issuer HOST:PORT: give both"
            )
        channel = client.open_local_channel(socket or default_socket())
    async with channel:
        yield Issuer(channel)


def default_socket() -> Path:
    """$TROVE_PKI_SOCKET, or where `trovectl up` puts it for this user."""
    if named := os.environ.get("TROVE_PKI_SOCKET"):
        return Path(named)
    if os.geteuid() == 0:
        state = Path("/var/lib/trove")
    else:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        state = Path(base) / "trove"
    return state / "run" / "issuer" / "operator.sock"
