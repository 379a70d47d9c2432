"""What the REST API knows of a caller, and who may say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from aiohttp import web


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The authenticated caller of one request."""

    project_id: str
    is_admin: bool = False
    user_id: str = ""
    roles: tuple[str, ...] = ()
    domain_id: str = ""  # the project's
    user_domain_id: str = ""
    service_roles: tuple[str, ...] = ()  # of the service that forwards the request, if one does

    def credentials(self) -> dict[str, object]:
        """What rules of the policy file may speak of, under oslo.context's names."""
        return {
            "is_admin": self.is_admin,
            "project_id": self.project_id,
            "tenant": self.project_id,
            "user_id": self.user_id,
            "user": self.user_id,
            "roles": list(self.roles),
            "project_domain_id": self.domain_id,
            "user_domain_id": self.user_domain_id,
            "service_roles": list(self.service_roles),
        }


class Authenticator(Protocol):
    """Says who sent a request."""

    @property
    def challenge(self) -> str:
        """`WWW-Authenticate` of every 401; empty for none."""

    def check_listen(self, host: str) -> None:
        """Raise InvalidRequestError when serving on `host` would be unsafe."""

    async def authenticate(self, request: web.Request, project_id: str) -> Caller:
        """The caller; raises UnauthenticatedError, PermissionDeniedError or UnavailableError."""
