"""ModuleService: what tenants keep to give to instances."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from conductor.executor import Database
from conductor.sealing import Sealer
from conductor.services import checks
from conductor.store import modules
from conductor.views import timestamp
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.conductor.v1 import module_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import module_service_pb2_grpc

# gRPC's own limit is 4 MiB for the whole request; Trove's column took as much.
_MAX_CONTENTS = 2 * 1024 * 1024
_MAX_DESCRIPTION = 4096
_MAX_ORDER = 9
_CHANGES = frozenset(pb2.UpdateModuleRequest.DESCRIPTOR.fields_by_name) - {"caller", "module_id"}


class ModuleService(module_service_pb2_grpc.ModuleServiceServicer):
    """Contents come in and are sealed; no answer here holds them."""

    def __init__(
        self, *, database: Database, sealer: Sealer, now: Callable[[], dt.datetime]
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._now = now

    async def CreateModule(
        self, request: pb2.CreateModuleRequest, _context: Any
    ) -> pb2.CreateModuleResponse:
        spec = request.spec
        new = modules.NewModule(
            name=checks.require_text(spec.name, "name"),
            type=checks.require_text(spec.type, "type", longest=32),
            contents=_contents(spec.contents),
            description=_description(spec.description) if spec.HasField("description") else None,
            datastore=_optional(spec.datastore, "datastore"),
            datastore_version=_optional(spec.datastore_version, "datastore_version"),
            auto_apply=spec.auto_apply,
            all_tenants=spec.all_tenants,
            is_visible=spec.is_visible,
            live_update=spec.live_update,
            priority_apply=spec.priority_apply,
            apply_order=_order(spec.apply_order),
            is_admin=spec.is_admin,
        )
        record = await self._database.write(
            modules.create,
            _caller(request.caller),
            new,
            request_id=_optional(request.request_id, "request_id"),
            sealer=self._sealer,
            now=self._now(),
        )
        return pb2.CreateModuleResponse(module=_message(record))

    async def GetModule(
        self, request: pb2.GetModuleRequest, _context: Any
    ) -> pb2.GetModuleResponse:
        record = await self._database.read(
            modules.get, _caller(request.caller), _id(request.module_id)
        )
        return pb2.GetModuleResponse(module=_message(record))

    async def ListModules(
        self, request: pb2.ListModulesRequest, _context: Any
    ) -> pb2.ListModulesResponse:
        size = checks.page_size(request.page_size)
        records = await self._database.read(
            modules.list_page,
            _caller(request.caller),
            datastore=_optional(request.datastore, "datastore"),
            after=_optional(request.page_token, "page_token"),
            limit=size + 1,
        )
        page = records[:size]
        return pb2.ListModulesResponse(
            modules=[_message(record) for record in page],
            next_page_token=page[-1].module.id if len(records) > size else "",
        )

    async def UpdateModule(
        self, request: pb2.UpdateModuleRequest, _context: Any
    ) -> pb2.UpdateModuleResponse:
        changes = {
            field.name: value for field, value in request.ListFields() if field.name in _CHANGES
        }
        if "name" in changes:
            checks.require_text(request.name, "name")
        if "description" in changes:
            _description(request.description)
        if "contents" in changes:
            _contents(request.contents)
        if "apply_order" in changes:
            _order(request.apply_order)
        for name in ("datastore", "datastore_version"):
            if name in changes:
                _optional(changes[name], name)
        record = await self._database.write(
            modules.update,
            _caller(request.caller),
            _id(request.module_id),
            changes,
            sealer=self._sealer,
            now=self._now(),
        )
        return pb2.UpdateModuleResponse(module=_message(record))

    async def DeleteModule(
        self, request: pb2.DeleteModuleRequest, _context: Any
    ) -> pb2.DeleteModuleResponse:
        await self._database.write(
            modules.delete,
            _caller(request.caller),
            _id(request.module_id),
            request_id=_optional(request.request_id, "request_id"),
            now=self._now(),
        )
        return pb2.DeleteModuleResponse()


def _caller(message: pb2.ModuleCaller) -> modules.Caller:
    return modules.Caller(
        tenant_id=checks.require_tenant(message.tenant_id), is_admin=message.is_admin
    )


def _id(value: str) -> str:
    return checks.require_text(value, "module_id")


def _optional(value: str, field: str) -> str:
    return checks.require_text(value, field, may_be_empty=True)


def _description(value: str) -> str:
    return checks.require_text(value, "description", longest=_MAX_DESCRIPTION, may_be_empty=True)


def _contents(value: bytes) -> bytes:
    if not value:
        raise InvalidRequestError("contents are required", subject="contents")
    if len(value) > _MAX_CONTENTS:
        raise InvalidRequestError(
            f"contents are longer than {_MAX_CONTENTS} bytes", subject="contents"
        )
    return value


def _order(value: int) -> int:
    if not 0 <= value <= _MAX_ORDER:
        raise InvalidRequestError(f"apply_order must be 0 to {_MAX_ORDER}", subject="apply_order")
    return value


def _message(record: modules.ModuleRecord) -> pb2.Module:
    module = record.module
    return pb2.Module(
        id=module.id,
        tenant_id=module.tenant_id or "",
        spec=pb2.ModuleSpec(
            name=module.name,
            type=module.type,
            description=module.description,
            datastore="" if record.datastore is None else record.datastore.name,
            datastore_version="" if record.version is None else record.version.name,
            auto_apply=module.auto_apply,
            all_tenants=module.tenant_id is None,
            is_visible=module.is_visible,
            live_update=module.live_update,
            priority_apply=module.priority_apply,
            apply_order=module.apply_order,
            is_admin=module.is_admin,
        ),
        datastore_id=module.datastore_id or "",
        datastore_version_id=module.datastore_version_id or "",
        md5=module.md5,
        create_time=timestamp(module.create_time),
        update_time=timestamp(module.update_time),
        instance_count=record.instance_count,
    )
