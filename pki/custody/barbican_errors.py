"""What went wrong on the way to Barbican, told apart where an operator acts differently.

| reason | class | what it was |
|---|---|---|
| CUSTODY_UNREACHABLE | UnavailableError | no connection to Keystone or Barbican |
| CUSTODY_TIMEOUT | DeadlineError | no answer in time; it may have happened |
| CUSTODY_TLS | CustodyError | the server's certificate is not trusted |
| CUSTODY_UNAUTHENTICATED | UnauthenticatedError | the application credential is not taken: 401 |
| CUSTODY_FORBIDDEN | PermissionDeniedError | 403: signed in, and not allowed |
| CUSTODY_GONE | NotFoundError | 404: it was listed a moment ago |
| CUSTODY_CONFLICT | ConflictError | 409 |
| CUSTODY_TOO_LARGE | CustodyError | 413 |
| CUSTODY_REFUSED | CustodyError | any other 4xx |
| CUSTODY_FAILED | UnavailableError | 5xx |
| CUSTODY_NO_ENDPOINT | NotFoundError | the catalogue does not know it |
| CUSTODY_NOT_UNDERSTOOD | CustodyError | an answer that is not Barbican's |
"""

from __future__ import annotations

import http
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

import barbicanclient.exceptions as barbican
import keystoneauth1.exceptions as keystone

from pki.custody.contract import CustodyError
from pki.custody.settings import BarbicanSettings
from trove_grpc.errors import (
    ConflictError,
    DeadlineError,
    NotFoundError,
    PermissionDeniedError,
    TroveError,
    UnauthenticatedError,
    UnavailableError,
)

_NEXT = "nothing was changed; try again"


class Explained(AbstractContextManager[None]):
    """Turns the exceptions of both client libraries into ours.

    `doing` is what was tried, for the message. Neither library's own text is repeated: a server
    may put anything into it. `forget` drops the session that was refused.
    """

    def __init__(
        self, doing: str, settings: BarbicanSettings, *, forget: Callable[[], None]
    ) -> None:
        self._cannot = f"cannot {doing}"
        self._settings = settings
        self._forget = forget

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, TroveError):
            return
        explained = self._explain(error)
        if explained is not None:
            raise explained from error

    def _explain(self, error: BaseException) -> TroveError | None:
        region = self._settings.region
        match error:
            case barbican.HTTPAuthError():  # its constructor forgets the status
                return self._by_status(http.HTTPStatus.UNAUTHORIZED, "Barbican")
            case barbican.HTTPError():
                return self._by_status(int(error.status_code), "Barbican")
            case keystone.NotFound():
                # What Keystone answers to an application credential that was deleted.
                return self._by_status(http.HTTPStatus.UNAUTHORIZED, "Keystone")
            case keystone.HttpError():
                return self._by_status(error.http_status, "Keystone")
            case keystone.ConnectTimeout():
                return DeadlineError(
                    f"{self._cannot}: no answer within "
                    f"{self._settings.timeout.total_seconds():g} s; it may have happened, and "
                    "trying again finds out",
                    reason="CUSTODY_TIMEOUT",
                )
            case keystone.SSLError():
                return CustodyError(
                    f"{self._cannot}: the certificate of Keystone or Barbican is not trusted; "
                    "check it and barbican.ca_file",
                    reason="CUSTODY_TLS",
                )
            case keystone.ConnectionError():
                return UnavailableError(
                    f"{self._cannot}: Keystone at {self._settings.auth_url} or Barbican of "
                    f"{region} cannot be reached; {_NEXT} when both are back",
                    reason="CUSTODY_UNREACHABLE",
                )
            case keystone.EndpointNotFound() | keystone.EmptyCatalog():
                return NotFoundError(
                    f"{self._cannot}: Keystone's catalogue has no {self._settings.interface} "
                    f"key-manager in {region}; see `openstack catalog list`",
                    reason="CUSTODY_NO_ENDPOINT",
                )
            case (
                keystone.ClientException()
                | barbican.BarbicanException()
                | ValueError()
                | (LookupError())
            ):
                return CustodyError(
                    f"{self._cannot}: the answer is not one of Barbican's; is something else "
                    f"behind that address of {region}?",
                    reason="CUSTODY_NOT_UNDERSTOOD",
                )
        return None

    def _by_status(self, status: int, who: str) -> TroveError:
        said = f"{self._cannot}: {who} answered {status:d}"
        match status:
            case http.HTTPStatus.UNAUTHORIZED:
                self._forget()
                return UnauthenticatedError(
                    f"{said}: the credential in {self._settings.credential_file} is not taken "
                    "(deleted, expired, or its user was disabled); put a new one there",
                    reason="CUSTODY_UNAUTHENTICATED",
                )
            case http.HTTPStatus.FORBIDDEN:
                return PermissionDeniedError(
                    f"{said}: the credential's user may not; give it the role `member` in the "
                    "project of the CA keys",
                    reason="CUSTODY_FORBIDDEN",
                )
            case http.HTTPStatus.NOT_FOUND:
                return NotFoundError(
                    f"{said}: it was removed meanwhile, or something else is behind that "
                    "address; nothing was made in its place",
                    reason="CUSTODY_GONE",
                )
            case http.HTTPStatus.CONFLICT:
                return ConflictError(
                    f"{said}: somebody else changes it; {_NEXT}", reason="CUSTODY_CONFLICT"
                )
            case http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                return CustodyError(
                    f"{said}: raise Barbican's max_allowed_secret_in_bytes",
                    reason="CUSTODY_TOO_LARGE",
                )
        if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            return UnavailableError(
                f"{said}: see its log; it may have happened, and trying again finds out",
                reason="CUSTODY_FAILED",
            )
        return CustodyError(f"{said}; nothing was changed", reason="CUSTODY_REFUSED")
