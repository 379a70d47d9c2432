"""Errors as HTTP: the only place with HTTP error codes, keyed by reason.

Trove's clients act on the status and show the message of `{"<key>": {"code", "message"}}`, so
codes and keys are Trove's. A reason that Trove answers unlike its kind (an unknown datastore is
404, an unknown datastore *version* 400) has a row of its own; any other goes by its class.
"""

from __future__ import annotations

import json
import math

from aiohttp import web

from trove_grpc import context, errors

_BY_REASON = {
    "CONFIGURATION_ATTACHED": 400,
    "CONFIGURATION_IN_USE": 400,
    "DATASTORE_VERSION_NOT_FOUND": 400,
    "DATASTORE_VERSION_INACTIVE": 400,
    "MODULE_EXISTS": 400,
    "DATASTORE_VERSION_EXISTS": 400,
    "DATASTORE_VERSION_IN_USE": 400,
    "DATASTORE_HAS_VERSIONS": 400,
    "PARAMETER_EXISTS": 400,
    "NOT_ADMIN": 401,  # Trove's mgmt routes; everything else that is forbidden is 403
    "BODY_TIMEOUT": 408,
    "PRECONDITION_FAILED": 412,
    "BODY_TOO_LARGE": 413,
    "VOLUME_TOO_LARGE": 413,
    "MEDIA_TYPE_UNSUPPORTED": 415,
    "CONFIGURATION_INVALID": 422,
    "INSTANCE_NOT_READY": 422,
    "INSTANCE_BUSY": 422,
    "ENGINE_NOT_RUNNING": 422,
    "ENGINE_NOT_PREPARED": 422,
    "GUEST_ANSWER_INVALID": 502,
}

_BY_CLASS: dict[type[errors.TroveError], int] = {
    errors.InvalidRequestError: 400,
    errors.UnauthenticatedError: 401,
    errors.PermissionDeniedError: 403,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.StaleError: 409,
    errors.QuotaExceededError: 413,
    errors.UnsupportedError: 501,
    errors.OverloadedError: 503,
    errors.UnavailableError: 503,
    errors.DeadlineError: 504,
    errors.TroveError: 500,
}

KEYS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    408: "requestTimeout",
    409: "conflict",
    412: "preconditionFailed",
    413: "overLimit",
    415: "badMediaType",
    422: "unprocessableEntity",
    500: "instanceFault",
    501: "notImplemented",
    502: "badGateway",
    503: "serviceUnavailable",
    504: "gatewayTimeout",
}

# What a client that does not know better should wait, seconds.
_RETRY_AFTER = {503: 2}
_INTERNAL = 500
# Trove's words where a rate is used up; which one it was stands in `details`.
_RATE_LIMITED = "This request was rate-limited."


def status_of(error: errors.TroveError) -> int:
    if error.reason in _BY_REASON:
        return _BY_REASON[error.reason]
    return next(_BY_CLASS[cls] for cls in type(error).__mro__ if cls in _BY_CLASS)


def is_internal(error: errors.TroveError) -> bool:
    """Whether it is ours to look at rather than the caller's."""
    return status_of(error) == _INTERNAL


def render(error: errors.TroveError) -> web.Response:
    """The response; an internal error says nothing but where to look."""
    status = status_of(error)
    message = error.message
    if status == _INTERNAL:
        message = (
            "Internal Server Error. Please keep this ID to help us figure out what went wrong: "
            f"({context.request_id()})."
        )
    fault: dict[str, object] = {"code": status, "message": message}
    retry_after = error.retry_after or _RETRY_AFTER.get(status)
    # Rounded up: whoever waits less is refused again.
    wait = str(max(1, math.ceil(retry_after or 0)))
    if error.reason == "RATE_EXCEEDED":
        fault |= {"message": _RATE_LIMITED, "details": message, "retryAfter": wait}
        retry_after = retry_after or 1
    response = web.Response(
        status=status,
        text=json.dumps({KEYS[status]: fault}),
        content_type="application/json",
    )
    if retry_after:
        response.headers["Retry-After"] = wait
    return response


def from_http(error: web.HTTPException) -> errors.TroveError:
    """The web framework's own refusals. Trove answers a wrong method with 404, never 405."""
    if error.status in (404, 405):
        return errors.NotFoundError("The resource could not be found.", reason="ROUTE_NOT_FOUND")
    if error.status == _status("BODY_TOO_LARGE"):
        return body_too_large()
    return errors.InvalidRequestError(f"The request cannot be read: {error.reason}.")


def body_too_large(limit: int | None = None) -> errors.TroveError:
    largest = f" of at most {limit} bytes" if limit else ""
    return errors.InvalidRequestError(
        f"Request is too large. Send a body{largest}.", reason="BODY_TOO_LARGE"
    )


def _status(reason: str) -> int:
    return _BY_REASON[reason]
