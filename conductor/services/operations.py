"""OperationService: what the task manager reads and writes while it carries out an operation."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration
from sqlalchemy.orm import Session

from conductor import metrics, views
from conductor.config import Config
from conductor.executor import Database
from conductor.presence import Presence, PresenceTable, clean
from conductor.sealing import Sealer
from conductor.services import checks
from conductor.store import configurations, guests, instances, operations, settlement
from conductor.store.guests import LiveSession
from conductor.store.instances import InstanceRecord
from conductor.store.operations import OperationRecord
from conductor.store.parameters import Value
from trove_grpc import context
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.conductor.v1 import operation_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import operation_service_pb2_grpc, resources_pb2

log = logging.getLogger(__name__)

_DETAIL_LENGTH = 4096
_STEP_STATES = frozenset({"RUNNING", "SUCCEEDED", "FAILED", "UNDONE"})
_FINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "STUCK"})


class OperationService(operation_service_pb2_grpc.OperationServiceServicer):
    """Every call is idempotent: a flow that is replayed makes it again."""

    def __init__(
        self,
        *,
        config: Config,
        database: Database,
        presence: PresenceTable,
        sealer: Sealer,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._config = config
        self._database = database
        self._presence = presence
        self._sealer = sealer
        self._now = now

    async def ListOpenOperations(
        self, request: pb2.ListOpenOperationsRequest, _context: Any
    ) -> pb2.ListOpenOperationsResponse:
        size = checks.page_size(request.page_size, default=100, most=1000)
        token = request.page_token
        records = await self._database.read(
            operations.list_open,
            after=operations.Place.parse(token) if token else None,
            limit=size + 1,
        )
        return pb2.ListOpenOperationsResponse(
            operations=[views.operation_message(record) for record in records[:size]],
            next_page_token=operations.next_place(records, size),
        )

    async def GetOperationInput(
        self, request: pb2.GetOperationInputRequest, _context: Any
    ) -> pb2.GetOperationInputResponse:
        operation, record, values = await self._database.read(_read_input, request.operation_id)
        instance = record.instance
        return pb2.GetOperationInputResponse(
            operation=views.operation_message(operation),
            instance=views.instance_view(
                record,
                merge=self._presence.merge,
                presence_deadline=self._config.presence_deadline,
                now=self._now(),
            ),
            databases=views.database_messages(instance.databases),
            placement=pb2.Placement(
                compute_id=instance.compute_id,
                addresses=instance.addresses,
                dns_names=instance.dns_names,
            ),
            engine_port=record.datastore.port,
            target_flavor=views.target_flavor(operation.operation),
            target_volume_size_gib=int(
                (operation.operation.target or {}).get("volume_size_gib", 0)
            ),
            parameters=views.parameter_messages(values),
        )

    async def GetOperationSecrets(
        self, request: pb2.GetOperationSecretsRequest, _context: Any
    ) -> pb2.GetOperationSecretsResponse:
        sealed = await self._database.read(operations.sealed_secrets, request.operation_id)
        if not sealed:
            return pb2.GetOperationSecretsResponse()
        return pb2.GetOperationSecretsResponse.FromString(
            self._sealer.open(sealed, record_id=request.operation_id)
        )

    async def RecordStep(
        self, request: pb2.RecordStepRequest, _context: Any
    ) -> pb2.RecordStepResponse:
        await self._database.write(
            operations.record_step,
            operation_id=request.operation_id,
            name=checks.require_text(request.step_name, "step_name", longest=64),
            state=_short_name(resources_pb2.StepState, request.state, "STEP_STATE_", _STEP_STATES),
            detail=clean(request.detail, _DETAIL_LENGTH),
            now=self._now(),
        )
        return pb2.RecordStepResponse()

    async def RecordPlacement(
        self, request: pb2.RecordPlacementRequest, _context: Any
    ) -> pb2.RecordPlacementResponse:
        placement = request.placement
        await self._database.write(
            instances.record_placement,
            instance_id=request.instance_id,
            compute_id=checks.require_text(
                placement.compute_id, "placement.compute_id", may_be_empty=True
            ),
            addresses=[checks.require_text(a, "placement.addresses") for a in placement.addresses],
            dns_names=[checks.require_text(n, "placement.dns_names") for n in placement.dns_names],
            now=self._now(),
        )
        return pb2.RecordPlacementResponse()

    async def FinishOperation(
        self, request: pb2.FinishOperationRequest, _context: Any
    ) -> pb2.FinishOperationResponse:
        retired = await self._database.write(
            settlement.finish_operation,
            operation_id=request.operation_id,
            state=_short_name(
                resources_pb2.OperationState, request.state, "OPERATION_STATE_", _FINAL_STATES
            ),
            fault_message=clean(request.fault.message, _DETAIL_LENGTH),
            fault_details=clean(request.fault.details, _DETAIL_LENGTH),
            now=self._now(),
        )
        with context.bound(operation=clean(request.operation_id, 36)):
            log.info("ended %s", resources_pb2.OperationState.Name(request.state))
        metrics.OPERATIONS.labels(resources_pb2.OperationState.Name(request.state)).inc()
        if retired:
            self._presence.forget(retired)
        return pb2.FinishOperationResponse()

    async def GetGuestState(
        self, request: pb2.GetGuestStateRequest, _context: Any
    ) -> pb2.GetGuestStateResponse:
        now = self._now()
        stored, live = await self._database.read(_read_guest, request.instance_id, now)
        presence = self._presence.merge(request.instance_id, stored)
        silence = presence.silence(now)
        response = pb2.GetGuestStateResponse(
            is_present=live is not None
            and silence is not None
            and silence <= self._config.presence_deadline,
            session_epoch=presence.session_epoch,
            observation=presence.observation(),
            last_report_time=views.timestamp(presence.last_report_time),
        )
        if silence is not None:
            duration = Duration()
            duration.FromTimedelta(silence)
            response.silence.CopyFrom(duration)
        return response


def _read_input(
    session: Session, operation_id: str
) -> tuple[OperationRecord, InstanceRecord, Mapping[str, Value]]:
    operation = operations.get_operation(session, operation_id=operation_id)
    instance_id = operation.operation.instance_id
    return (
        operation,
        instances.get_instance(session, instance_id=instance_id, include_deleted=True),
        configurations.values_of(session, instance_id),
    )


def _read_guest(
    session: Session, instance_id: str, now: dt.datetime
) -> tuple[Presence, LiveSession | None]:
    stored = guests.read_presence(session, [instance_id])
    if instance_id not in stored:
        raise instances.instance_not_found(instance_id)
    return stored[instance_id], guests.live_session(session, instance_id=instance_id, now=now)


def _short_name(enumeration: Any, value: int, prefix: str, allowed: frozenset[str]) -> str:
    """The stored name of an enumeration's value."""
    name = str(enumeration.Name(value)) if value in enumeration.values() else ""
    if name.removeprefix(prefix) not in allowed:
        raise InvalidRequestError(
            f"state must be one of {', '.join(sorted(allowed))}", subject="state"
        )
    return name.removeprefix(prefix)
