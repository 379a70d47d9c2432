"""`auth = "keystone"`: a token of the project that the path names."""

from __future__ import annotations

from aiohttp import web

from gateway.rest.auth.contract import Caller
from gateway.rest.auth.settings import KeystoneSettings
from gateway.rest.auth.tokens import TokenFacts
from gateway.rest.auth.validation import TokenValidator, refused
from trove_grpc.errors import PermissionDeniedError

_TOKEN_HEADER = "X-Auth-Token"  # noqa: S105  a name
_SERVICE_TOKEN_HEADER = "X-Service-Token"  # noqa: S105  a name
_ADMIN_ROLE = "admin"


class KeystoneAuth:
    """Reads tokens as keystonemiddleware does, and Trove's rule about projects."""

    def __init__(self, settings: KeystoneSettings, validator: TokenValidator) -> None:
        self._settings = settings
        self._validator = validator
        self._admin_roles = (_ADMIN_ROLE, *settings.admin_roles)
        uri = settings.www_authenticate_uri or settings.auth_url
        self.challenge = f'Keystone uri="{uri}"'

    def check_listen(self, host: str) -> None:
        """Any: tokens guard it. TLS towards clients is the proxy's in front."""

    async def authenticate(self, request: web.Request, project_id: str) -> Caller:
        service = await self._service(request)
        token = await self._validator.validate(
            _only(request, _TOKEN_HEADER),
            allow_expired=service is not None
            and service.has_any(self._settings.service_token_roles),
        )
        _check_project(token, project_id)
        return Caller(
            project_id=project_id,
            is_admin=token.has_any(self._admin_roles),
            user_id=token.user_id,
            roles=token.roles,
            domain_id=token.project_domain_id,
            user_domain_id=token.user_domain_id,
            service_roles=service.roles if service is not None else (),
        )

    async def _service(self, request: web.Request) -> TokenFacts | None:
        """The service that forwards the request; one whose token does not count is refused."""
        if _SERVICE_TOKEN_HEADER not in request.headers:
            return None
        return await self._validator.validate(_only(request, _SERVICE_TOKEN_HEADER))


def _only(request: web.Request, header: str) -> str:
    """The header's value; with two of them, proxies and we might each read another."""
    values = request.headers.getall(header, [])
    if len(values) != 1:
        raise refused()
    return values[0]


def _check_project(token: TokenFacts, project_id: str) -> None:
    if not token.project_id:
        raise PermissionDeniedError(
            "This token has no project as its scope; ask Keystone for one of the project that "
            "the path names.",
            reason="PROJECT_SCOPE_NEEDED",
        )
    if token.project_id != project_id:
        raise PermissionDeniedError(
            f"User with tenant id {token.project_id} cannot access this resource.",
            reason="OTHER_PROJECT",
        )
