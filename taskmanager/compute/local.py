"""Guests as processes of this machine, through the supervisor's UNIX socket."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpc import aio

from taskmanager.compute import Flavor, Guest, GuestSpec
from trove_grpc.client import call, open_local_channel
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2 as pb
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2_grpc as rpc

# Writing a few files and starting two processes.
_TIMEOUT = 30.0
# A guest is given time to stop its engine cleanly before it is removed.
_REMOVE_TIMEOUT = 120.0


class LocalCompute:
    """The driver for one machine; the supervisor is the only parent of its processes."""

    def __init__(self, socket: Path, flavors: Sequence[Flavor]) -> None:
        self._socket = socket
        self._flavors = sorted(flavors, key=lambda flavor: flavor.id)
        self._channel: aio.Channel | None = None

    async def allocate_address(self, instance_id: str, port: int) -> str:
        request = pb.AllocateAddressRequest(instance_id=instance_id, port=port)
        response = await self._call("AllocateAddress", request)
        return str(response.address)

    async def ensure_guest(self, spec: GuestSpec) -> Guest:
        request = pb.EnsureGuestRequest(
            instance_id=spec.instance_id,
            tenant_id=spec.tenant_id,
            enrolment_token=spec.enrolment_token.reveal(),
            trust_bundle=spec.trust_bundle.SerializeToString(),
            enrolment_endpoints=spec.enrolment_endpoints,
            guest_endpoints=spec.guest_endpoints,
            manager=spec.manager,
        )
        return _guest((await self._call("EnsureGuest", request)).guest)

    async def find_guest(self, instance_id: str) -> Guest | None:
        response = await self._call("ListGuests", pb.ListGuestsRequest())
        for guest in response.guests:
            if guest.instance_id == instance_id:
                return _guest(guest)
        return None

    async def remove_guest(self, instance_id: str) -> None:
        request = pb.RemoveGuestRequest(instance_id=instance_id)
        await self._call("RemoveGuest", request, timeout=_REMOVE_TIMEOUT)

    async def grow_volume(self, instance_id: str, size_gib: int) -> None:
        """Guests share this machine's disk, so that a size is a quota, which the record keeps."""

    async def list_flavors(self) -> Sequence[Flavor]:
        return self._flavors

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def _call(self, method: str, request: Any, *, timeout: float = _TIMEOUT) -> Any:
        if self._channel is None:
            self._channel = open_local_channel(self._socket)
        stub = rpc.SupervisorServiceStub(self._channel)
        return await call(getattr(stub, method), request, timeout=timeout, retry=True)


def _guest(guest: pb.Guest) -> Guest:
    return Guest(
        compute_id=guest.instance_id,
        address=guest.address,
        is_running=guest.agent_pid != 0,
        has_identity=guest.has_identity,
    )
