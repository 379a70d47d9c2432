"""Conductor and issuer over mutual TLS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskmanager.peers import Token
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import operation_service_pb2 as pb
from trove_grpc.gen.conductor.v1 import operation_service_pb2_grpc as rpc
from trove_grpc.gen.conductor.v1 import report_service_pb2, resources_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2, issuer_service_pb2_grpc
from trove_grpc.guests import lookup_session
from trove_grpc.redaction import Secret

# One small transaction on the other side; steps repeat what takes longer.
_TIMEOUT = 10.0
_PAGE = 1000


class GrpcConductor:
    """ConductorClient over gRPC."""

    def __init__(self, channel: PeerChannel) -> None:
        self._channel = channel

    async def list_open_operations(self) -> Sequence[resources_pb2.Operation]:
        operations: list[resources_pb2.Operation] = []
        token = ""
        while True:
            request = pb.ListOpenOperationsRequest(page_size=_PAGE, page_token=token)
            page = await self._operations("ListOpenOperations", request)
            operations.extend(page.operations)
            token = page.next_page_token
            if not token:
                return operations

    async def get_input(self, operation_id: str) -> pb.GetOperationInputResponse:
        request = pb.GetOperationInputRequest(operation_id=operation_id)
        response = await self._operations("GetOperationInput", request)
        assert isinstance(response, pb.GetOperationInputResponse)  # noqa: S101  for mypy
        return response

    async def get_users(self, operation_id: str) -> Sequence[engine_pb2.UserSpec]:
        request = pb.GetOperationSecretsRequest(operation_id=operation_id)
        return list((await self._operations("GetOperationSecrets", request)).users)

    async def record_step(
        self,
        operation_id: str,
        step: str,
        state: resources_pb2.StepState.ValueType,
        detail: str = "",
    ) -> None:
        request = pb.RecordStepRequest(
            operation_id=operation_id, step_name=step, state=state, detail=detail
        )
        await self._operations("RecordStep", request)

    async def record_placement(self, instance_id: str, placement: pb.Placement) -> None:
        request = pb.RecordPlacementRequest(instance_id=instance_id, placement=placement)
        await self._operations("RecordPlacement", request)

    async def finish_operation(
        self,
        operation_id: str,
        state: resources_pb2.OperationState.ValueType,
        fault: resources_pb2.Fault | None = None,
    ) -> None:
        request = pb.FinishOperationRequest(operation_id=operation_id, state=state, fault=fault)
        await self._operations("FinishOperation", request)

    async def get_guest_state(self, instance_id: str) -> pb.GetGuestStateResponse:
        request = pb.GetGuestStateRequest(instance_id=instance_id)
        response = await self._operations("GetGuestState", request)
        assert isinstance(response, pb.GetGuestStateResponse)  # noqa: S101  for mypy
        return response

    async def lookup_session(self, instance_id: str) -> report_service_pb2.LookupSessionResponse:
        return await lookup_session(self._channel, instance_id)

    async def _operations(self, method: str, request: Any) -> Any:
        stub = self._channel.stub(rpc.OperationServiceStub)
        return await call(getattr(stub, method), request, timeout=_TIMEOUT, retry=True)


class GrpcIssuer:
    """IssuerClient over gRPC."""

    def __init__(self, channel: PeerChannel) -> None:
        self._channel = channel

    async def register_subject(
        self,
        instance_id: str,
        tenant_id: str,
        *,
        dns_names: Sequence[str],
        ip_addresses: Sequence[str],
    ) -> None:
        request = issuer_service_pb2.RegisterSubjectRequest(
            instance_id=instance_id,
            tenant_id=tenant_id,
            engine_dns_names=dns_names,
            engine_ip_addresses=ip_addresses,
        )
        await self._call("RegisterSubject", request, retry=True)

    async def retire_subject(self, instance_id: str, reason: str) -> None:
        request = issuer_service_pb2.RetireSubjectRequest(instance_id=instance_id, reason=reason)
        await self._call("RetireSubject", request, retry=True)

    async def mint_token(self, instance_id: str) -> Token:
        request = issuer_service_pb2.MintTokenRequest(instance_id=instance_id)
        response = await self._call("MintToken", request, retry=False)
        return Token(response.token_id, Secret(response.token))

    async def void_tokens(self, instance_id: str) -> None:
        request = issuer_service_pb2.VoidTokensRequest(instance_id=instance_id)
        await self._call("VoidTokens", request, retry=True)

    async def _call(self, method: str, request: Any, *, retry: bool) -> Any:
        stub = self._channel.stub(issuer_service_pb2_grpc.IssuerServiceStub)
        return await call(getattr(stub, method), request, timeout=_TIMEOUT, retry=retry)
