"""Actions on instances, as the REST API asks for them."""

from __future__ import annotations

from typing import Protocol, cast

from gateway.rest.peers import call_peer
from trove_grpc.client import PeerChannel
from trove_grpc.gen.conductor.v1 import action_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import action_service_pb2_grpc


class Actions(Protocol):
    """All raise `trove_grpc.errors`: NotFoundError, and ConflictError (INSTANCE_BUSY)."""

    async def begin(self, request: pb2.BeginActionRequest) -> str:
        """The id of the operation that carries the action out."""

    async def reset(self, instance_id: str) -> None:
        """Free an instance of any project from its task."""

    async def force_delete(self, instance_id: str, request_id: str) -> str:
        """The id of the operation that deletes an instance of any project."""


class GrpcActions:
    """Asks the conductor; every call may be sent again when an answer is lost."""

    def __init__(self, conductor: PeerChannel) -> None:
        self._conductor = conductor

    async def begin(self, request: pb2.BeginActionRequest) -> str:
        response = await call_peer(self._stub().BeginAction, request)
        return cast(str, response.operation_id)

    async def reset(self, instance_id: str) -> None:
        request = pb2.ResetInstanceRequest(instance_id=instance_id)
        await call_peer(self._stub().ResetInstance, request)

    async def force_delete(self, instance_id: str, request_id: str) -> str:
        request = pb2.ForceDeleteInstanceRequest(instance_id=instance_id, request_id=request_id)
        response = await call_peer(self._stub().ForceDeleteInstance, request)
        return cast(str, response.operation_id)

    def _stub(self) -> action_service_pb2_grpc.ActionServiceStub:
        return self._conductor.stub(action_service_pb2_grpc.ActionServiceStub)
