"""What makes a repeated request the same request: the client's key, or a new one."""

from __future__ import annotations

import re
import uuid

from aiohttp import web

from trove_grpc.errors import InvalidRequestError

_HEADER = "X-Idempotency-Key"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def read_request_id(request: web.Request) -> str:
    """For calls whose repeat would do something else; the others need no key."""
    key = request.headers.get(_HEADER)
    if key is None:
        return str(uuid.uuid4())
    if not _KEY.fullmatch(key):
        raise InvalidRequestError(f"{_HEADER} must have 1 to 255 visible ASCII characters.")
    return key
