"""Reading a request's body: one JSON object under one root key, sent as JSON or as XML."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.rest import problems, xml
from gateway.rest.fields import Fields, kind_of
from trove_grpc.errors import InvalidRequestError

_JSON_TYPES = frozenset({"application/json", "application/vnd.openstack.trove+json"})


async def read_object(request: web.Request, *, limit: int, timeout: float) -> dict[str, Any]:
    """The object sent; raises InvalidRequestError for anything else."""
    # A client that names no type means JSON; a page in a browser cannot leave it out unnoticed,
    # since it always names its Origin.
    is_xml = "Content-Type" in request.headers and request.content_type == xml.MEDIA_TYPE
    if "Content-Type" in request.headers and not (is_xml or request.content_type in _JSON_TYPES):
        raise InvalidRequestError(
            "The request media type is not supported by this server. "
            f"Send JSON with Content-Type: application/json, or {xml.MEDIA_TYPE}.",
            reason="MEDIA_TYPE_UNSUPPORTED",
        )
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise InvalidRequestError(
            "Compressed request bodies are not supported; send the body as it is.",
            reason="MEDIA_TYPE_UNSUPPORTED",
        )
    text = await _read_text(request, limit=limit, timeout=timeout)
    if not text.strip():
        raise InvalidRequestError("Malformed request body: it is empty. Send a JSON object.")
    try:
        value = xml.from_xml(text) if is_xml else _from_json(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"Malformed request body: {_describe(error)}.") from None
    if not isinstance(value, dict):
        raise InvalidRequestError(
            f"Malformed request body: expected a JSON object, not {kind_of(value)}."
        )
    return value


async def read_root(request: web.Request, root: str, *, limit: int, timeout: float) -> Fields:
    """The object under `root`, for example {"instance": {...}}."""
    value = await read_object(request, limit=limit, timeout=timeout)
    if root not in value:
        raise InvalidRequestError(
            f"Validation error: '{root}' is a required property of the request body"
        )
    if not isinstance(value[root], dict):
        raise InvalidRequestError(
            f"Validation error: {root} must be an object, not {kind_of(value[root])}"
        )
    return Fields(value[root], root)


async def _read_text(request: web.Request, *, limit: int, timeout: float) -> str:
    if (request.content_length or 0) > limit:
        raise problems.body_too_large(limit)
    try:
        async with asyncio.timeout(timeout):
            data = await request.read()
    except TimeoutError:
        raise InvalidRequestError(
            f"The request body did not arrive within {timeout:g} seconds.", reason="BODY_TIMEOUT"
        ) from None
    except web.HTTPRequestEntityTooLarge:
        raise problems.body_too_large(limit) from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise InvalidRequestError(
            "Malformed request body: its transfer encoding is broken."
        ) from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"Malformed request body: byte {error.start} is not UTF-8."
        ) from None


def _from_json(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _describe(error: Exception) -> str:
    """Where it went wrong; never the text, which may hold a password."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, xml.XmlError):
        return str(error)
    return "a number in it cannot be read"
