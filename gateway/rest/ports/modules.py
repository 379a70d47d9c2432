"""Modules, as the REST API asks for them."""

from __future__ import annotations

from typing import Protocol, cast

from gateway.rest.peers import call_peer
from trove_grpc.client import PeerChannel
from trove_grpc.gen.conductor.v1 import module_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import module_service_pb2_grpc


class Modules(Protocol):
    """All raise `trove_grpc.errors`; NotFoundError for what the caller may not see."""

    async def create(self, request: pb2.CreateModuleRequest) -> pb2.Module: ...

    async def get(self, caller: pb2.ModuleCaller, module_id: str) -> pb2.Module: ...

    async def list_page(
        self, caller: pb2.ModuleCaller, *, datastore: str, page_size: int, page_token: str
    ) -> pb2.ListModulesResponse: ...

    async def update(self, request: pb2.UpdateModuleRequest) -> pb2.Module: ...

    async def delete(self, request: pb2.DeleteModuleRequest) -> None: ...


class GrpcModules:
    """Asks the conductor; every call is idempotent: retried."""

    def __init__(self, conductor: PeerChannel) -> None:
        self._conductor = conductor

    async def create(self, request: pb2.CreateModuleRequest) -> pb2.Module:
        response = await call_peer(self._stub().CreateModule, request)
        return cast(pb2.Module, response.module)

    async def get(self, caller: pb2.ModuleCaller, module_id: str) -> pb2.Module:
        request = pb2.GetModuleRequest(caller=caller, module_id=module_id)
        return cast(pb2.Module, (await call_peer(self._stub().GetModule, request)).module)

    async def list_page(
        self, caller: pb2.ModuleCaller, *, datastore: str, page_size: int, page_token: str
    ) -> pb2.ListModulesResponse:
        request = pb2.ListModulesRequest(
            caller=caller, datastore=datastore, page_size=page_size, page_token=page_token
        )
        return cast(pb2.ListModulesResponse, await call_peer(self._stub().ListModules, request))

    async def update(self, request: pb2.UpdateModuleRequest) -> pb2.Module:
        return cast(pb2.Module, (await call_peer(self._stub().UpdateModule, request)).module)

    async def delete(self, request: pb2.DeleteModuleRequest) -> None:
        await call_peer(self._stub().DeleteModule, request)

    def _stub(self) -> module_service_pb2_grpc.ModuleServiceStub:
        return self._conductor.stub(module_service_pb2_grpc.ModuleServiceStub)
