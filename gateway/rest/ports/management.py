"""Instances of every project, as administrators ask for them."""

from __future__ import annotations

from typing import Protocol, cast

from gateway.rest.peers import call_peer
from trove_grpc.client import PeerChannel
from trove_grpc.gen.conductor.v1 import management_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import management_service_pb2_grpc


class Management(Protocol):
    """All raise `trove_grpc.errors`."""

    async def list_instances(
        self, request: pb2.ListManagedInstancesRequest
    ) -> pb2.ListManagedInstancesResponse: ...

    async def get_instance(
        self, instance_id: str, *, include_deleted: bool
    ) -> pb2.ManagedInstance: ...


class GrpcManagement:
    """Asks the conductor; reads only, sent again when an answer is lost."""

    def __init__(self, conductor: PeerChannel) -> None:
        self._conductor = conductor

    async def list_instances(
        self, request: pb2.ListManagedInstancesRequest
    ) -> pb2.ListManagedInstancesResponse:
        response = await call_peer(self._stub().ListManagedInstances, request)
        return cast(pb2.ListManagedInstancesResponse, response)

    async def get_instance(
        self, instance_id: str, *, include_deleted: bool
    ) -> pb2.ManagedInstance:
        request = pb2.GetManagedInstanceRequest(
            instance_id=instance_id, include_deleted=include_deleted
        )
        response = await call_peer(self._stub().GetManagedInstance, request)
        return cast(pb2.ManagedInstance, response.instance)

    def _stub(self) -> management_service_pb2_grpc.ManagementServiceStub:
        return self._conductor.stub(management_service_pb2_grpc.ManagementServiceStub)
