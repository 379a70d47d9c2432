"""Commands to guests: which gateway holds the session, asked once and remembered.

For whoever may send them: the task manager, and the API as far as gateways let it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from trove_grpc.client import PeerChannel, call
from trove_grpc.errors import (
    NotFoundError,
    SessionMovedError,
    TroveError,
    UnavailableError,
    from_reason,
)
from trove_grpc.gen.conductor.v1 import report_service_pb2, report_service_pb2_grpc
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2, dispatch_service_pb2_grpc
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.names import Role
from trove_grpc.tls import IdentityDirectory

# Addresses remembered; one costs about 200 bytes, a lookup one small RPC.
_REMEMBERED = 4096
# How much longer than the guest we wait, for the answer's way back, seconds.
_MARGIN = 5.0
# Gateways dialled at once; an installation has a handful, more are old addresses.
_MAX_CHANNELS = 64
_LOOKUP_SECONDS = 10.0

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
    """Guests by the conductor's session directory."""

    def __init__(self, lookup: Lookup, gateways: Gateways) -> None:
        self._lookup = lookup
        self._gateways = gateways
        self._addresses: OrderedDict[str, str] = OrderedDict()

    async def send_command(
        self, instance_id: str, command: guest_pb2.Command, *, tenant_id: str = ""
    ) -> guest_pb2.CommandResult:
        """One lookup at most if the remembered gateway is wrong or gone, and one more try.

        The command id makes the second try harmless where the first one arrived. `tenant_id`
        lets the gateway compare whose guest it is with whose the caller means.
        """
        request = dispatch_service_pb2.SendCommandRequest(
            instance_id=instance_id, command=command, tenant_id=tenant_id
        )
        timeout = command.timeout.ToTimedelta().total_seconds() + _MARGIN
        address = self._addresses.get(instance_id) or await self._find(instance_id)
        try:
            response = await self._gateways.send_command(address, request, timeout=timeout)
        except (SessionMovedError, UnavailableError) as failed:
            address = await self._find_again(instance_id, failed)
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

    async def _find_again(self, instance_id: str, failed: TroveError) -> str:
        try:
            return await self._find(instance_id)
        except UnavailableError as error:
            if failed.reason == SessionMovedError.reason:
                raise  # that gateway had no session to send it to
            raise UnavailableError(
                f"the session of {instance_id} ended while a command was on its way; it may have "
                "happened",
                reason="SESSION_LOST",
                subject=instance_id,
            ) from error

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


class GrpcGateways:
    """Guest gateways by the address of their internal listener; a bounded set of channels."""

    def __init__(self, identity: IdentityDirectory) -> None:
        self._identity = identity
        self._channels: OrderedDict[str, PeerChannel] = OrderedDict()

    async def send_command(
        self,
        address: str,
        request: dispatch_service_pb2.SendCommandRequest,
        *,
        timeout: float,
    ) -> dispatch_service_pb2.SendCommandResponse:
        stub = self._channel(address).stub(dispatch_service_pb2_grpc.DispatchServiceStub)
        response = await call(stub.SendCommand, request, timeout=timeout)
        return cast(dispatch_service_pb2.SendCommandResponse, response)

    async def close(self) -> None:
        while self._channels:
            await self._channels.popitem()[1].close()

    def _channel(self, address: str) -> PeerChannel:
        channel = self._channels.get(address)
        if channel is None:
            if len(self._channels) >= _MAX_CHANNELS:
                self._channels.popitem(last=False)  # unused the longest; grpc closes it
            channel = PeerChannel([address], identity=self._identity, server_role=Role.GATEWAY)
            self._channels[address] = channel
        self._channels.move_to_end(address)
        return channel


async def lookup_session(
    conductor: PeerChannel, instance_id: str
) -> report_service_pb2.LookupSessionResponse:
    """Ask the conductor; raises NotFoundError (NO_SESSION) when no gateway holds one."""
    stub = conductor.stub(report_service_pb2_grpc.ReportServiceStub)
    request = report_service_pb2.LookupSessionRequest(instance_id=instance_id)
    response = await call(stub.LookupSession, request, timeout=_LOOKUP_SECONDS, retry=True)
    return cast(report_service_pb2.LookupSessionResponse, response)
