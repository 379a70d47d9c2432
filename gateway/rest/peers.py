"""Calling the control plane's processes from a request."""

from __future__ import annotations

import logging
from typing import Any

from trove_grpc.client import call
from trove_grpc.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError

log = logging.getLogger(__name__)

# A call's own limit, seconds; the request's deadline may be nearer.
CALL_SECONDS = 5.0


async def call_peer(method: Any, request: Any, *, retry: bool = True) -> Any:
    """Call once more when an answer is lost, but for `retry=False`: what a repeat would change.

    Raises `trove_grpc.errors`. A refusal with a reason of its own is the caller's to hear; one of
    this very process is not, 401 or 403 would blame the client for it.
    """
    try:
        return await call(method, request, timeout=CALL_SECONDS, retry=retry)
    except (UnauthenticatedError, PermissionDeniedError) as error:
        if isinstance(error, PermissionDeniedError) and error.reason != type(error).reason:
            raise
        log.exception("the control plane refused this process")
        raise UnavailableError(
            "The control plane refused this API process; an operator must look at its certificate."
        ) from error
