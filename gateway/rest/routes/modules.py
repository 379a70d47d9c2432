"""Modules: kept by tenants, given to instances.

Of Trove's types there is `ping`; `generic` is ours: a file the agent keeps beside its engine.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from aiohttp import web

from gateway.rest import views
from gateway.rest.fields import Fields, invalid, kind_of
from gateway.rest.idempotency import read_request_id
from gateway.rest.links import Json
from gateway.rest.ports.modules import Modules
from gateway.rest.router import Call, Route, answer
from trove_grpc.gen.conductor.v1 import module_service_pb2 as pb2

_LONGEST_TYPE = 32
_LONGEST_DESCRIPTION = 4096
_LONGEST_CONTENTS = 1_000_000
_MAX_ORDER = 9
# Trove's names of switches, and ours.
_SWITCHES = {
    "auto_apply": "auto_apply",
    "all_tenants": "all_tenants",
    "visible": "is_visible",
    "live_update": "live_update",
    "priority_apply": "priority_apply",
}


class ModuleRoutes:
    """Everything below /modules but what concerns instances."""

    def __init__(self, modules: Modules) -> None:
        self._modules = modules

    def routes(self) -> list[Route]:
        return [
            ("GET", "/modules", self.list),
            ("POST", "/modules", self.create),
            ("GET", "/modules/{id}", self.show),
            ("PUT", "/modules/{id}", self.update),
            ("DELETE", "/modules/{id}", self.delete),
        ]

    async def list(self, call: Call) -> web.Response:
        page = call.page()
        found = await self._modules.list_page(
            _caller(call),
            datastore=call.http.query.get("datastore", ""),
            page_size=page.limit,
            page_token=page.marker,
        )
        body: dict[str, Json] = {"modules": [view(module) for module in found.modules]}
        if found.next_page_token:
            body["links"] = call.links.following(
                "modules",
                limit=page.limit,
                marker=found.next_page_token,
                filters=call.filters("datastore"),
            )
        return answer(body)

    async def create(self, call: Call) -> web.Response:
        fields = await call.fields("module")
        spec = pb2.ModuleSpec(
            name=fields.required_text("name"),
            type=fields.required_text("module_type", longest=_LONGEST_TYPE),
            contents=_contents(fields),
            is_visible=True,
            apply_order=_order(fields) if "apply_order" in fields else 5,
        )
        if fields.raw("description") is not None:
            spec.description = fields.text("description", longest=_LONGEST_DESCRIPTION)
        if datastore := fields.object("datastore"):
            spec.datastore = datastore.text("type", nullable=True)
            spec.datastore_version = datastore.text("version", nullable=True)
        for theirs, ours in _SWITCHES.items():
            if theirs in fields:
                setattr(spec, ours, _switch(fields, theirs))
        if "full_access" in fields:
            spec.is_admin = not _switch(fields, "full_access")
        created = await self._modules.create(
            pb2.CreateModuleRequest(
                caller=_caller(call), spec=spec, request_id=read_request_id(call.http)
            )
        )
        return answer({"module": detailed(created)})

    async def show(self, call: Call) -> web.Response:
        module = await self._modules.get(_caller(call), call.segment("id"))
        return answer({"module": detailed(module) | {"instance_count": module.instance_count}})

    async def update(self, call: Call) -> web.Response:
        fields = await call.fields("module")
        request = pb2.UpdateModuleRequest(caller=_caller(call), module_id=call.segment("id"))
        if "name" in fields:
            request.name = fields.required_text("name")
        if "description" in fields:
            request.description = fields.text(
                "description", longest=_LONGEST_DESCRIPTION, nullable=True
            )
        if "contents" in fields:
            request.contents = _contents(fields)
        if "apply_order" in fields:
            request.apply_order = _order(fields)
        if datastore := fields.object("datastore"):
            request.datastore = datastore.text("type", nullable=True)
            request.datastore_version = datastore.text("version", nullable=True)
        if "all_datastores" in fields and _switch(fields, "all_datastores"):
            request.datastore = request.datastore_version = ""
        elif "all_datastore_versions" in fields and _switch(fields, "all_datastore_versions"):
            request.datastore_version = ""
        for theirs, ours in _SWITCHES.items():
            if theirs in fields:
                setattr(request, ours, _switch(fields, theirs))
        return answer({"module": detailed(await self._modules.update(request))})

    async def delete(self, call: Call) -> web.Response:
        await self._modules.delete(
            pb2.DeleteModuleRequest(
                caller=_caller(call),
                module_id=call.segment("id"),
                request_id=read_request_id(call.http),
            )
        )
        return web.Response(status=200, content_type="application/json")


def view(module: pb2.Module) -> dict[str, Json]:
    """A module in a list."""
    spec = module.spec
    return {
        "id": module.id,
        "name": spec.name,
        "type": spec.type,
        "description": spec.description if spec.HasField("description") else None,
        "tenant_id": module.tenant_id or None,
        "datastore_id": module.datastore_id or None,
        "datastore_version_id": module.datastore_version_id or None,
        "auto_apply": spec.auto_apply,
        "priority_apply": spec.priority_apply,
        "apply_order": spec.apply_order,
        "is_admin": spec.is_admin,
        "md5": module.md5,
        "visible": spec.is_visible,
        "created": views.moment(module.create_time),
        "updated": views.moment(module.update_time),
        "tenant": module.tenant_id or "all",
        "datastore": spec.datastore or "all",
        "datastore_version": spec.datastore_version or "all",
    }


def detailed(module: pb2.Module) -> dict[str, Json]:
    return view(module) | {"live_update": module.spec.live_update}


def _caller(call: Call) -> pb2.ModuleCaller:
    return pb2.ModuleCaller(tenant_id=call.project_id, is_admin=call.caller.is_admin)


def _contents(fields: Fields) -> bytes:
    """Base64 as the client wrote it: that is what Trove's MD5 is of."""
    text = fields.required_text("contents", longest=_LONGEST_CONTENTS)
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(fields.at("contents"), "is not Base64") from None
    return text.encode()


def _order(fields: Fields) -> int:
    order = fields.integer("apply_order", least=0)
    if order > _MAX_ORDER:
        raise invalid(fields.at("apply_order"), f"is greater than the maximum of {_MAX_ORDER}")
    return order


def _switch(fields: Fields, name: str) -> bool:
    """Trove's clients send 0 and 1, others true and false."""
    value: Any = fields.raw(name)
    if not isinstance(value, int) or value not in (0, 1):  # False and True are numbers too
        raise invalid(fields.at(name), f"must be 0, 1, true or false, not {kind_of(value)}")
    return bool(value)
