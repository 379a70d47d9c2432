"""Who was let into an engine as root, as the REST API asks for it."""

from __future__ import annotations

from typing import Protocol, cast

from gateway.rest.peers import call_peer
from trove_grpc.client import PeerChannel
from trove_grpc.gen.conductor.v1 import root_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import root_service_pb2_grpc


class RootHistory(Protocol):
    """All raise `trove_grpc.errors`; NotFoundError for another tenant's instance."""

    async def record_enabled(self, tenant_id: str, instance_id: str, user_id: str) -> bool:
        """Before it is done; whether it was enabled already."""

    async def record_disabled(self, tenant_id: str, instance_id: str) -> None:
        """Raises NotFoundError (ROOT_NEVER_ENABLED) when it is not enabled."""

    async def is_enabled(self, tenant_id: str, instance_id: str) -> bool: ...

    async def last_enabling(self, instance_id: str) -> pb2.GetRootHistoryResponse:
        """Of any tenant's instance: for administrators alone."""


class GrpcRootHistory:
    """Asks the conductor."""

    def __init__(self, conductor: PeerChannel) -> None:
        self._conductor = conductor

    async def record_enabled(self, tenant_id: str, instance_id: str, user_id: str) -> bool:
        request = pb2.RecordRootEnabledRequest(
            tenant_id=tenant_id, instance_id=instance_id, user_id=user_id
        )
        # A repeat would say that it was enabled before.
        response = await call_peer(self._stub().RecordRootEnabled, request, retry=False)
        return cast(bool, response.was_enabled)

    async def record_disabled(self, tenant_id: str, instance_id: str) -> None:
        request = pb2.RecordRootDisabledRequest(tenant_id=tenant_id, instance_id=instance_id)
        await call_peer(self._stub().RecordRootDisabled, request, retry=False)

    async def is_enabled(self, tenant_id: str, instance_id: str) -> bool:
        request = pb2.GetRootRequest(tenant_id=tenant_id, instance_id=instance_id)
        return cast(bool, (await call_peer(self._stub().GetRoot, request)).is_enabled)

    async def last_enabling(self, instance_id: str) -> pb2.GetRootHistoryResponse:
        request = pb2.GetRootHistoryRequest(instance_id=instance_id)
        response = await call_peer(self._stub().GetRootHistory, request)
        return cast(pb2.GetRootHistoryResponse, response)

    def _stub(self) -> root_service_pb2_grpc.RootServiceStub:
        return self._conductor.stub(root_service_pb2_grpc.RootServiceStub)
