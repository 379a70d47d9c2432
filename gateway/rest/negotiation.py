"""In what a response is written: JSON, unless the client says that it would rather have XML."""

from __future__ import annotations

import json

from aiohttp import web

from gateway.rest import xml

_JSON = "application/json"
_MAX_ACCEPT = 1024


def negotiate(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """The response in the form asked for; what is not JSON (streams, plain text) stays."""
    if not isinstance(response, web.Response) or response.content_type != _JSON:
        return response
    others = response.headers.get("Vary")  # of who else judged the request's headers
    response.headers["Vary"] = f"{others}, Accept" if others else "Accept"
    if not prefers_xml(request.headers.get("Accept", "")):
        return response
    if response.text:
        response.text = xml.to_xml(json.loads(response.text))
    response.content_type = xml.MEDIA_TYPE
    return response


def prefers_xml(accept: str) -> bool:
    """Whether XML is named, with a higher quality than JSON has (RFC 9110, 12.5.1).

    Trove's clients send JSON or nothing; who takes both alike gets JSON.
    """
    ranges = [_media_range(text) for text in accept[:_MAX_ACCEPT].split(",")]
    qualities: dict[str, float] = {}
    for name, quality in ranges:
        qualities.setdefault(name, quality)
    named = qualities.get(xml.MEDIA_TYPE, 0.0)
    others = (qualities[name] for name in (_JSON, "application/*", "*/*") if name in qualities)
    return named > next(others, 0.0)


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            return name, _quality(value.strip())
    return name, 1.0


def _quality(text: str) -> float:
    """Of 0 to 1; what is not a quality counts as none."""
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
