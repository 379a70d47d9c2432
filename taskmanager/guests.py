"""Commands to guests: which gateway holds the session, asked once and remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

from trove_grpc.errors import (
    NotFoundError,
    SessionMovedError,
    UnavailableError,
    from_reason,
)
from trove_grpc.gen.conductor.v1 import report_service_pb2
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

# Addresses remembered; one costs about 200 bytes, a lookup one small RPC.
_REMEMBERED = 4096
# How much longer than the guest we wait, for the answer's way back, seconds.
_MARGIN = 5.0

Lookup = Callable[[str], Awaitable[report_service_pb2.LookupSessionResponse]]


class Gateways(Protocol):
    """Guest gateways, by address."""

    async def send_command(
        self,
        address: str,
        request: dispatch_service_pb2.SendCommandRequest,
        *,
        timeout: float,
    ) -> dispatch_service_pb2.SendCommandResponse: ...


class SessionGuests:
    """`peers.Guests` by the conductor's session directory."""

    def __init__(self, lookup: Lookup, gateways: Gateways) -> None:
        self._lookup = lookup
        self._gateways = gateways
        self._addresses: OrderedDict[str, str] = OrderedDict()

    async def send_command(
        self, instance_id: str, command: guest_pb2.Command
    ) -> guest_pb2.CommandResult:
        """One lookup at most if the remembered gateway is wrong or gone, and one more try.

        The command id makes the second try harmless where the first one arrived.
        """
        request = dispatch_service_pb2.SendCommandRequest(instance_id=instance_id, command=command)
        timeout = command.timeout.ToTimedelta().total_seconds() + _MARGIN
        address = self._addresses.get(instance_id) or await self._find(instance_id)
        try:
            response = await self._gateways.send_command(address, request, timeout=timeout)
        except (SessionMovedError, UnavailableError):
            address = await self._find(instance_id)
            try:
                response = await self._gateways.send_command(address, request, timeout=timeout)
            except SessionMovedError as error:
                self._addresses.pop(instance_id, None)
                raise UnavailableError(
                    f"the session of {instance_id} is moving between gateways",
                    reason="SESSION_MOVING",
                ) from error
        result = response.result
        if result.error_reason:
            raise from_reason(result.error_reason, result.error_message, subject=instance_id)
        return result

    async def _find(self, instance_id: str) -> str:
        self._addresses.pop(instance_id, None)
        try:
            session = await self._lookup(instance_id)
        except NotFoundError as error:
            raise UnavailableError(
                f"no gateway holds a session of {instance_id}: its agent is not connected",
                reason="NO_SESSION",
                subject=instance_id,
            ) from error
        if len(self._addresses) >= _REMEMBERED:
            self._addresses.popitem(last=False)
        self._addresses[instance_id] = session.gateway_address
        return session.gateway_address
