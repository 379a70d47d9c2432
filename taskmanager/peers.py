"""What flows ask of conductor, issuer and guests: protocols, so that tests bring their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import operation_service_pb2 as operations_pb2
from trove_grpc.gen.conductor.v1 import report_service_pb2, resources_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.redaction import Secret


@dataclass(frozen=True, slots=True)
class Token:
    """A one-time enrolment token: its public name and itself."""

    id: str
    secret: Secret


class ConductorClient(Protocol):
    """The database of record. Every method is idempotent.

    Raises UnavailableError or DeadlineError while it is away, NotFoundError for an unknown id,
    ConflictError for a write to an operation that has ended otherwise.
    """

    async def list_open_operations(self) -> Sequence[resources_pb2.Operation]:
        """Every operation that has not ended, oldest first."""
        ...

    async def get_input(self, operation_id: str) -> operations_pb2.GetOperationInputResponse:
        """What a flow needs to know; no secrets."""
        ...

    async def get_users(self, operation_id: str) -> Sequence[engine_pb2.UserSpec]:
        """The users with their verifiers: secrets, for one step's memory only."""
        ...

    async def record_step(
        self,
        operation_id: str,
        step: str,
        state: resources_pb2.StepState.ValueType,
        detail: str = "",
    ) -> None: ...

    async def record_placement(
        self, instance_id: str, placement: operations_pb2.Placement
    ) -> None: ...

    async def finish_operation(
        self,
        operation_id: str,
        state: resources_pb2.OperationState.ValueType,
        fault: resources_pb2.Fault | None = None,
    ) -> None: ...

    async def get_guest_state(self, instance_id: str) -> operations_pb2.GetGuestStateResponse: ...

    async def lookup_session(
        self, instance_id: str
    ) -> report_service_pb2.LookupSessionResponse: ...


class IssuerClient(Protocol):
    """Identities of guests. `mint_token` makes a new token each time; the rest is idempotent."""

    async def register_subject(
        self,
        instance_id: str,
        tenant_id: str,
        *,
        dns_names: Sequence[str],
        ip_addresses: Sequence[str],
    ) -> None: ...

    async def retire_subject(self, instance_id: str, reason: str) -> None: ...

    async def mint_token(self, instance_id: str) -> Token: ...

    async def void_tokens(self, instance_id: str) -> None:
        """End the tokens nobody used."""
        ...


class Guests(Protocol):
    """Commands to guest agents, wherever their sessions are."""

    async def send_command(
        self, instance_id: str, command: guest_pb2.Command
    ) -> guest_pb2.CommandResult:
        """Carry out `command` within its timeout; at most once for one command id.

        Raises UnavailableError when no gateway holds a session, the guest's own error when it
        failed the command.
        """
        ...
