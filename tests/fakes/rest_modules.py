"""Modules in memory; tests/integration/gateway_rest holds it to the conductor's contract."""

from __future__ import annotations

import hashlib
import uuid

from trove_grpc.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
)
from trove_grpc.gen.conductor.v1 import module_service_pb2 as pb2

TYPES = ("ping", "generic")


class FakeModules:
    """Keeps modules without their contents."""

    def __init__(self) -> None:
        self.modules: dict[str, pb2.Module] = {}
        self._done: dict[tuple[str, str], tuple[bytes, str]] = {}

    async def create(self, request: pb2.CreateModuleRequest) -> pb2.Module:
        if made := self._find(request):
            return await self.get(request.caller, made)
        spec = pb2.ModuleSpec()
        spec.CopyFrom(request.spec)
        if spec.type not in TYPES:
            raise NotFoundError(
                f"Module type '{spec.type}' was not found.", reason="MODULE_TYPE_UNKNOWN"
            )
        self._check_options(request.caller, spec, "create")
        contents = spec.contents
        spec.ClearField("contents")
        spec.is_admin = spec.is_admin or self._is_administrators(spec)
        module = pb2.Module(
            id=str(uuid.uuid4()),
            tenant_id="" if spec.all_tenants else request.caller.tenant_id,
            spec=spec,
            md5=hashlib.md5(contents, usedforsecurity=False).hexdigest(),
        )
        module.create_time.GetCurrentTime()
        module.update_time.CopyFrom(module.create_time)
        self._check_name(module)
        self.modules[module.id] = module
        self._remember(request, module.id)
        return module

    async def get(self, caller: pb2.ModuleCaller, module_id: str) -> pb2.Module:
        module = self.modules.get(module_id)
        if module is None or not self._sees(caller, module):
            raise NotFoundError(
                f"Module with ID {module_id} could not be found.", reason="MODULE_NOT_FOUND"
            )
        return module

    async def list_page(
        self, caller: pb2.ModuleCaller, *, datastore: str, page_size: int, page_token: str
    ) -> pb2.ListModulesResponse:
        found = [
            module
            for key, module in sorted(self.modules.items())
            if key > page_token
            and self._sees(caller, module)
            and (not datastore or module.spec.datastore in ("", datastore))
        ]
        return pb2.ListModulesResponse(
            modules=found[:page_size],
            next_page_token=found[page_size - 1].id if len(found) > page_size else "",
        )

    async def update(self, request: pb2.UpdateModuleRequest) -> pb2.Module:
        module = await self.get(request.caller, request.module_id)
        self._check_own(request.caller, module, "update")
        changed = pb2.Module()
        changed.CopyFrom(module)
        for field, value in request.ListFields():
            if field.name == "contents":
                changed.md5 = hashlib.md5(value, usedforsecurity=False).hexdigest()
            elif field.name not in ("caller", "module_id"):
                setattr(changed.spec, field.name, value)
        self._check_options(request.caller, changed.spec, "update")
        self._check_name(changed)
        self.modules[module.id] = changed
        return changed

    async def delete(self, request: pb2.DeleteModuleRequest) -> None:
        if self._find(request):
            return
        module = await self.get(request.caller, request.module_id)
        self._check_own(request.caller, module, "delete")
        del self.modules[module.id]
        self._remember(request, module.id)

    def _find(self, request: pb2.CreateModuleRequest | pb2.DeleteModuleRequest) -> str:
        key = (request.caller.tenant_id, request.request_id)
        if not request.request_id or key not in self._done:
            return ""
        wish, module_id = self._done[key]
        if wish != request.SerializeToString(deterministic=True):
            raise ConflictError("used for something else", reason="REQUEST_ID_REUSED")
        return module_id

    def _remember(
        self, request: pb2.CreateModuleRequest | pb2.DeleteModuleRequest, module_id: str
    ) -> None:
        wish = request.SerializeToString(deterministic=True)
        self._done[request.caller.tenant_id, request.request_id] = wish, module_id

    def _sees(self, caller: pb2.ModuleCaller, module: pb2.Module) -> bool:
        return caller.is_admin or (
            module.tenant_id in ("", caller.tenant_id) and module.spec.is_visible
        )

    def _is_administrators(self, spec: pb2.ModuleSpec) -> bool:
        return spec.all_tenants or spec.auto_apply or spec.priority_apply or not spec.is_visible

    def _check_options(self, caller: pb2.ModuleCaller, spec: pb2.ModuleSpec, action: str) -> None:
        asked = spec.is_admin or self._is_administrators(spec)
        if asked and not caller.is_admin:
            raise PermissionDeniedError(
                f"You must be admin to {action} a module with these options.",
                reason="MODULE_ACCESS",
            )

    def _check_own(self, caller: pb2.ModuleCaller, module: pb2.Module, action: str) -> None:
        if not caller.is_admin and (module.spec.is_admin or module.tenant_id != caller.tenant_id):
            raise PermissionDeniedError(
                f"You must be admin to {action} an admin module.", reason="MODULE_ACCESS"
            )

    def _check_name(self, module: pb2.Module) -> None:
        for other in self.modules.values():
            if other.id != module.id and (
                other.tenant_id,
                other.spec.type,
                other.spec.name,
                other.spec.datastore,
                other.spec.datastore_version,
            ) == (
                module.tenant_id,
                module.spec.type,
                module.spec.name,
                module.spec.datastore,
                module.spec.datastore_version,
            ):
                raise AlreadyExistsError(
                    f"A module with the name '{module.spec.name}' already exists",
                    reason="MODULE_EXISTS",
                )
