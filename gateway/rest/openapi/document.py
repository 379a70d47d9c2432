"""The OpenAPI document. Served and written to docs/reference/openapi.json as it is made here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import cast

from gateway.rest import problems, xml
from gateway.rest.links import Json
from gateway.rest.openapi.routes import ROUTES, Described
from gateway.rest.openapi.schemas import SCHEMAS, Schema, reference
from gateway.rest.router import MAX_PAGE, OPERATION_ID_HEADER, Route
from trove_grpc.identity import TENANT_ID

_JSON = "application/json"
_PARAMETER = re.compile(r"{(\w+)(?::[^}]*)?}")  # with what aiohttp lets it be
_BODIED = ("POST", "PUT", "PATCH")
_QUERY: dict[str, tuple[str, Schema]] = {
    "limit": (
        f"Items on a page; more than {MAX_PAGE} count as {MAX_PAGE}.",
        {"type": "integer", "minimum": 1, "default": MAX_PAGE},
    ),
    "marker": ("Id of the last item of the page before.", {"type": "string", "maxLength": 255}),
    "datastore": ("Name or id.", {"type": "string"}),
    "deleted": ("Whether deleted ones are shown.", {"type": "string"}),
    "project_id": ("Only that project's.", {"type": "string"}),
}
_DESCRIPTION = (
    "Trove's API v1.0 and what this control plane adds to it. Every body may also be sent and "
    "asked for as application/xml: the representation of JSON of XPath 3.1 (fn:json-to-xml). "
    "Routes of Trove's that only refuse here are not listed."
)


def build(routes: Iterable[Route]) -> dict[str, Json]:
    """The document of these routes below /v1.0/{project}."""
    paths: dict[str, Json] = {}
    for route in routes:
        method, path, _handler = route
        shown = _PARAMETER.sub(r"{\1}", path)
        item = cast(dict[str, Json], paths.setdefault(f"/{{project}}{shown}", {}))
        # The first route that matches wins, in the application as here.
        item.setdefault(method.lower(), _operation(route, describe(route)))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Trove", "version": "1.0", "description": _DESCRIPTION},
        "servers": [{"url": "/v1.0"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": cast(Json, SCHEMAS),
            "responses": {
                key: {"description": key, "content": _content("Problem")}
                for key in problems.KEYS.values()
            },
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}
            },
        },
    }


def describe(route: Route) -> Described:
    """What is declared of a route; of one not declared yet, what it says of itself."""
    method, path, handler = route
    if (method, path) in ROUTES:
        return ROUTES[method, path]
    words = inspect.getdoc(handler) or f"{method.capitalize()} {path}"
    return Described(summary=words.splitlines()[0], body="Any" if method in _BODIED else "")


def _operation(route: Route, described: Described) -> dict[str, Json]:
    method, path, _handler = route
    parameters: list[Json] = [
        _parameter("path", "project", "Id of the project.", _project()),
        *(
            _parameter("path", name, "Name or id.", {"type": "string", "minLength": 1})
            for name in _PARAMETER.findall(path)
        ),
        *(_parameter("query", name, *_QUERY[name]) for name in described.query),
    ]
    operation: dict[str, Json] = {
        "operationId": "_".join([method.lower(), *re.findall(r"\w+", path)]),
        "summary": described.summary,
        "tags": [re.findall(r"\w+", path)[0]],
        "parameters": parameters,
        "responses": {
            str(described.status): _success(described),
            **{str(code): {"description": "Nothing more to say."} for code in described.also},
            **{
                str(code): {"$ref": f"#/components/responses/{key}"}
                for code, key in problems.KEYS.items()
            },
        },
    }
    if described.body:
        operation["requestBody"] = {"required": True, "content": _content(described.body)}
    return operation


def _success(described: Described) -> Json:
    response: dict[str, Json] = {"description": described.summary}
    if described.media_type:
        response["content"] = {described.media_type: {"schema": reference(described.answer)}}
    elif described.answer:
        response["content"] = _content(described.answer)
    if described.starts_operation:
        response["headers"] = {
            OPERATION_ID_HEADER: {
                "description": "The operation that goes on: GET /operations/{id}.",
                "schema": {"type": "string"},
            }
        }
    return response


def _content(name: str) -> Json:
    return {
        _JSON: {"schema": reference(name)},
        # Its schema is that of JSON's representation, the same for every body.
        xml.MEDIA_TYPE: {"schema": {"type": "string"}},
    }


def _project() -> Schema:
    return {"type": "string", "pattern": f"^{TENANT_ID}$"}


def _parameter(place: str, name: str, description: str, schema: Schema) -> Json:
    return {
        "in": place,
        "name": name,
        "required": place == "path",
        "description": description,
        "schema": schema,
    }
