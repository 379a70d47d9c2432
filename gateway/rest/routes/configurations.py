"""Configuration groups, and what an instance has without one."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

from gateway.rest import views
from gateway.rest.control_plane import ControlPlane
from gateway.rest.fields import Fields, check_text, invalid, kind_of
from gateway.rest.links import Json
from gateway.rest.router import Call, Route, accepted, answer
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import configuration_service_pb2 as pb2

_LONGEST_NAME = 64
_LONGEST_DESCRIPTION = 256
_MAX_VALUES = 1024
_MAX_INTEGER = 2**63 - 1


class ConfigurationRoutes:
    """Everything below /configurations. Values are judged by the conductor alone."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._configurations = control_plane.configurations
        self._wake: Callable[[str], Awaitable[None]] = control_plane.wake

    def routes(self) -> list[Route]:
        return [
            ("GET", "/configurations", self.list),
            ("POST", "/configurations", self.create),
            ("GET", "/configurations/{id}", self.show),
            ("PUT", "/configurations/{id}", self.replace),
            ("PATCH", "/configurations/{id}", self.edit),
            ("DELETE", "/configurations/{id}", self.delete),
            ("GET", "/configurations/{id}/instances", self.list_instances),
            ("GET", "/instances/{id}/configuration", self.show_defaults),
        ]

    async def list(self, call: Call) -> web.Response:
        page = call.page()
        found = await self._configurations.list_page(
            call.project_id, page_size=page.limit, page_token=page.marker
        )
        body: dict[str, Json] = {
            "configurations": [summary(group) for group in found.configurations]
        }
        if found.next_page_token:
            body["links"] = call.links.following(
                "configurations", limit=page.limit, marker=found.next_page_token
            )
        return answer(body)

    async def create(self, call: Call) -> web.Response:
        fields = await call.fields("configuration")
        request = pb2.CreateConfigurationRequest(
            tenant_id=call.project_id,
            name=fields.required_text("name", longest=_LONGEST_NAME),
            values=_required_values(fields),
        )
        if fields.raw("description") is not None:
            request.description = fields.text("description", longest=_LONGEST_DESCRIPTION)
        if datastore := fields.object("datastore"):
            request.datastore = datastore.text("type", nullable=True)
            request.datastore_version = datastore.text("version", nullable=True)
        created = await self._configurations.create(request)
        return answer({"configuration": detail(created)})

    async def show(self, call: Call) -> web.Response:
        group = await self._configurations.get(call.project_id, call.segment("id"))
        return answer({"configuration": detail(group)})

    async def replace(self, call: Call) -> web.Response:
        """Values that are not named go; a name or description that is not named stays."""
        await self._update(call, replaces_values=True)
        return accepted()

    async def edit(self, call: Call) -> web.Response:
        """Values join the group's. Trove answers 200 here, and 202 to `replace`."""
        await self._update(call, replaces_values=False)
        return web.Response(status=200, content_type="application/json")

    async def delete(self, call: Call) -> web.Response:
        await self._configurations.delete(call.project_id, call.segment("id"))
        return accepted()

    async def list_instances(self, call: Call) -> web.Response:
        page = call.page()
        group = call.segment("id")
        found = await self._configurations.list_instances(
            call.project_id, group, page_size=page.limit, page_token=page.marker
        )
        body: dict[str, Json] = {
            "instances": [{"id": item.id, "name": item.name} for item in found.instances]
        }
        if found.next_page_token:
            body["links"] = call.links.following(
                f"configurations/{group}/instances",
                limit=page.limit,
                marker=found.next_page_token,
            )
        return answer(body)

    async def show_defaults(self, call: Call) -> web.Response:
        values = await self._configurations.defaults(call.project_id, call.segment("id"))
        return answer({"instance": {"configuration": _as_json(values)}})

    async def _update(self, call: Call, *, replaces_values: bool) -> None:
        fields = await call.fields("configuration")
        request = pb2.UpdateConfigurationRequest(
            tenant_id=call.project_id,
            configuration_id=call.segment("id"),
            replaces_values=replaces_values,
            values=_required_values(fields) if replaces_values else _values(fields),
        )
        if "name" in fields:
            request.name = fields.required_text("name", longest=_LONGEST_NAME)
        if "description" in fields:
            request.description = fields.text(
                "description", longest=_LONGEST_DESCRIPTION, nullable=True
            )
        for operation_id in await self._configurations.update(request):
            await self._wake(operation_id)


def summary(group: pb2.Configuration) -> dict[str, Json]:
    """A group in a list."""
    version = group.datastore_version
    return {
        "id": group.id,
        "name": group.name,
        "description": group.description if group.HasField("description") else None,
        "created": views.moment(group.create_time),
        "updated": views.moment(group.update_time),
        "datastore_version_id": version.id,
        "datastore_name": version.datastore_name,
        "datastore_version_name": version.name,
    }


def detail(group: pb2.Configuration) -> dict[str, Json]:
    version = group.datastore_version
    return summary(group) | {
        "values": _as_json(group.values),
        "instance_count": group.instance_count,
        "datastore_version_number": version.version or version.name,
    }


def _as_json(values: Iterable[engine_pb2.Parameter]) -> dict[str, Json]:
    shown: dict[str, Json] = {}
    for value in values:
        kind = value.WhichOneof("value")
        shown[value.name] = None if kind is None else getattr(value, kind)
    return shown


def _required_values(fields: Fields) -> list[engine_pb2.Parameter]:
    if "values" not in fields:
        raise invalid(fields.path, "'values' is a required property")
    return _values(fields)


def _values(fields: Fields) -> list[engine_pb2.Parameter]:
    values = fields.object("values")
    if values is None:
        return []
    if len(values.names()) > _MAX_VALUES:
        raise invalid(values.path, f"has more than {_MAX_VALUES} values")
    return [_value(values, name) for name in sorted(values.names())]


def _value(values: Fields, name: str) -> engine_pb2.Parameter:
    """A value with its JSON type; numbers no engine has are refused here."""
    check_text(name, f"a name in {values.path}")
    value = values.raw(name)
    if isinstance(value, bool):
        return engine_pb2.Parameter(name=name, boolean=value)
    if isinstance(value, int):
        if abs(value) > _MAX_INTEGER:
            raise invalid(values.at(name), f"is greater than the maximum of {_MAX_INTEGER}")
        return engine_pb2.Parameter(name=name, integer=value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise invalid(values.at(name), "is no finite number")
        return engine_pb2.Parameter(name=name, number=value)
    if isinstance(value, str):
        check_text(value, values.at(name))
        return engine_pb2.Parameter(name=name, text=value)
    raise invalid(values.at(name), f"must be a value, not {kind_of(value)}")
