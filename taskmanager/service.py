"""The RPC face: wake-up calls and flavors."""

from __future__ import annotations

from typing import Any

from taskmanager.compute import Compute
from taskmanager.peers import ConductorClient
from taskmanager.sweeper import Sweeper
from trove_grpc.gen.taskmanager.v1 import task_manager_service_pb2 as pb
from trove_grpc.gen.taskmanager.v1 import task_manager_service_pb2_grpc as rpc

SERVICE = pb.DESCRIPTOR.services_by_name["TaskManagerService"].full_name


class TaskManagerService(rpc.TaskManagerServiceServicer):
    """Delegates; holds nothing."""

    def __init__(self, conductor: ConductorClient, sweeper: Sweeper, compute: Compute) -> None:
        self._conductor = conductor
        self._sweeper = sweeper
        self._compute = compute

    async def Wake(self, request: pb.WakeRequest, context: Any) -> pb.WakeResponse:
        given = await self._conductor.get_input(request.operation_id)
        await self._sweeper.start(given.operation)
        return pb.WakeResponse()

    async def ListFlavors(
        self, request: pb.ListFlavorsRequest, context: Any
    ) -> pb.ListFlavorsResponse:
        flavors = await self._compute.list_flavors()
        return pb.ListFlavorsResponse(
            flavors=[
                pb.Flavor(
                    id=flavor.id,
                    name=flavor.name,
                    ram_mib=flavor.ram_mib,
                    vcpus=flavor.vcpus,
                    disk_gib=flavor.disk_gib,
                )
                for flavor in flavors
            ]
        )
