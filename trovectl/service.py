"""SupervisorService: validate, delegate, answer."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2 as rpc
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2_grpc as rpc_grpc
from trovectl.guests import Guests
from trovectl.plane import ControlPlane

_HIGHEST_PORT = 65535


class SupervisorService(rpc_grpc.SupervisorServiceServicer):
    """The local compute, and what runs."""

    def __init__(self, guests: Guests, plane: ControlPlane) -> None:
        self._guests = guests
        self._plane = plane

    async def AllocateAddress(
        self, request: rpc.AllocateAddressRequest, context: Any
    ) -> rpc.AllocateAddressResponse:
        if not 0 < request.port <= _HIGHEST_PORT:
            raise InvalidRequestError(f"{request.port} is not a TCP port")
        address = await self._guests.allocate(request.instance_id, request.port)
        return rpc.AllocateAddressResponse(address=address)

    async def EnsureGuest(
        self, request: rpc.EnsureGuestRequest, context: Any
    ) -> rpc.EnsureGuestResponse:
        guest = await self._guests.ensure(request)
        return rpc.EnsureGuestResponse(guest=guest.describe())

    async def ListGuests(
        self, request: rpc.ListGuestsRequest, context: Any
    ) -> rpc.ListGuestsResponse:
        return rpc.ListGuestsResponse(guests=[guest.describe() for guest in self._guests.list()])

    async def RemoveGuest(
        self, request: rpc.RemoveGuestRequest, context: Any
    ) -> rpc.RemoveGuestResponse:
        await self._guests.remove(request.instance_id)
        return rpc.RemoveGuestResponse()

    async def ListProcesses(
        self, request: rpc.ListProcessesRequest, context: Any
    ) -> rpc.ListProcessesResponse:
        members = self._plane.members
        reasons = await asyncio.gather(*(self._plane.reason(member) for member in members))
        response = rpc.ListProcessesResponse()
        for member, reason in zip(members, reasons, strict=True):
            process = response.processes.add(
                name=member.name,
                pid=member.child.pid,
                is_ready=not reason,
                restart_count=member.child.restart_count,
                reason=reason,
                endpoints=[f"{name}={address}" for name, address in member.endpoints.items()],
            )
            if member.child.started_at:
                process.start_time.CopyFrom(Timestamp(seconds=int(member.child.started_at)))
        return response
