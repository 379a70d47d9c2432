"""Parameters that may stand in configuration groups: tenants read, administrators write."""

from __future__ import annotations

import re

from aiohttp import web

from gateway.rest.fields import Fields, invalid
from gateway.rest.links import Json
from gateway.rest.ports.configurations import Configurations
from gateway.rest.router import Call, Route, answer
from trove_grpc.errors import InvalidRequestError, PermissionDeniedError
from trove_grpc.gen.conductor.v1 import configuration_service_pb2 as pb2

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_WHOLE = re.compile(r"-?[0-9]{1,19}")
_LARGEST = 2**63
_TYPES = {"integer": pb2.PARAMETER_TYPE_INTEGER, "string": pb2.PARAMETER_TYPE_STRING}


class ParameterRoutes:
    """Trove's four ways to read them, and its administrators' five."""

    def __init__(self, configurations: Configurations) -> None:
        self._configurations = configurations

    def routes(self) -> list[Route]:
        # By id first: the middle part of the other would match "versions".
        by_id = "/datastores/versions/{version}/parameters"
        by_name = "/datastores/{datastore}/versions/{version}/parameters"
        managed = "/mgmt/datastores/versions/{version}/parameters"
        return [
            *(("GET", path, self.list) for path in (by_id, by_name)),
            *(("GET", f"{path}/{{name}}", self.show) for path in (by_id, by_name)),
            ("GET", managed, self.list_managed),
            ("POST", managed, self.create),
            ("GET", f"{managed}/{{name}}", self.show_managed),
            ("PUT", f"{managed}/{{name}}", self.replace),
            ("DELETE", f"{managed}/{{name}}", self.delete),
        ]

    async def list(self, call: Call) -> web.Response:
        found = await self._find(call)
        rules: list[Json] = [_view(rule, found) for rule in found.rules]
        return answer({"configuration-parameters": rules})

    async def show(self, call: Call) -> web.Response:
        found = await self._find(call, call.segment("name"))
        return answer(_view(found.rules[0], found))

    async def list_managed(self, call: Call) -> web.Response:
        _require_administrator(call)
        found = await self._find(call)
        rules: list[Json] = [
            _managed_view(rule, found.datastore_version_id) for rule in found.rules
        ]
        return answer({"configuration-parameters": rules})

    async def show_managed(self, call: Call) -> web.Response:
        _require_administrator(call)
        found = await self._find(call, call.segment("name"))
        return answer(_managed_view(found.rules[0], found.datastore_version_id))

    async def create(self, call: Call) -> web.Response:
        _require_administrator(call)
        fields = await call.fields("configuration-parameter")
        return await self._write(call, _read(fields, fields.required_text("name")), is_new=True)

    async def replace(self, call: Call) -> web.Response:
        _require_administrator(call)
        fields = await call.fields("configuration-parameter")
        return await self._write(call, _read(fields, call.segment("name")), is_new=False)

    async def delete(self, call: Call) -> web.Response:
        _require_administrator(call)
        await self._configurations.delete_parameter(call.segment("version"), call.segment("name"))
        return web.Response(status=204)

    async def _write(self, call: Call, rule: pb2.ParameterRule, *, is_new: bool) -> web.Response:
        version = call.segment("version")
        written = await self._configurations.write_parameter(version, rule, is_new=is_new)
        return answer(_managed_view(written, version))

    async def _find(self, call: Call, name: str = "") -> pb2.ListParametersResponse:
        datastore = call.segment("datastore") if "datastore" in call.http.match_info else ""
        return await self._configurations.list_parameters(datastore, call.segment("version"), name)


def _view(rule: pb2.ParameterRule, found: pb2.ListParametersResponse) -> dict[str, Json]:
    return _shown(rule, found.datastore_version_id, most="max", least="min")


def _managed_view(rule: pb2.ParameterRule, version_id: str) -> dict[str, Json]:
    """Trove names the bounds otherwise here."""
    return _shown(rule, version_id, most="max_size", least="min_size")


def _shown(rule: pb2.ParameterRule, version_id: str, *, most: str, least: str) -> dict[str, Json]:
    kind = pb2.ParameterType.Name(rule.type).removeprefix("PARAMETER_TYPE_").lower()
    view: dict[str, Json] = {
        "name": rule.name,
        "datastore_version_id": version_id,
        "restart_required": rule.restart_required,
        "type": kind,
    }
    if rule.HasField("max_value"):
        view[most] = rule.max_value
    if rule.HasField("min_value"):
        view[least] = rule.min_value
    return view


def _read(fields: Fields, name: str) -> pb2.ParameterRule:
    if not _NAME.fullmatch(name):
        raise invalid(fields.at("name"), "must have 1 to 64 letters, digits, '_', '-' and '.'")
    kind = fields.required_text("data_type")
    if kind not in _TYPES:
        raise invalid(fields.at("data_type"), "does not match 'integer|string'")
    restart = fields.raw("restart_required")
    if not isinstance(restart, int) or restart not in (0, 1):  # False and True are numbers too
        raise invalid(fields.at("restart_required"), "must be 0 or 1")
    rule = pb2.ParameterRule(name=name, type=_TYPES[kind], restart_required=bool(restart))
    if kind == "integer":
        rule.max_value = _bound(fields, "max_size")
        rule.min_value = _bound(fields, "min_size")
        if rule.min_value > rule.max_value:
            raise InvalidRequestError("max_size must be greater than or equal to min_size.")
    return rule


def _bound(fields: Fields, name: str) -> int:
    value = fields.raw(name)
    if value is None:
        raise InvalidRequestError(f"{name} is required for integer data type.")
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _WHOLE.fullmatch(text) or abs(int(text)) >= _LARGEST:
        raise invalid(fields.at(name), "must be a whole number of at most 63 bits")
    return int(text)


def _require_administrator(call: Call) -> None:
    if not call.caller.is_admin:
        raise PermissionDeniedError("User does not have admin privileges.", reason="NOT_ADMIN")
