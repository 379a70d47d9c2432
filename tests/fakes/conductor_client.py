"""Calls of a real conductor as its three callers make them, in one line each."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

from tests.fakes.control_plane import RunningConductor
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import (
    instance_service_pb2,
    instance_service_pb2_grpc,
    operation_service_pb2,
    operation_service_pb2_grpc,
    report_service_pb2,
    report_service_pb2_grpc,
    resources_pb2,
)
from trove_grpc.gen.guest.v1 import guest_session_service_pb2
from trove_grpc.identity import Role

HEALTHY = engine_pb2.ENGINE_STATE_HEALTHY
SUCCEEDED = resources_pb2.OPERATION_STATE_SUCCEEDED
TIMEOUT = 10.0


class ReportStream:
    """A gateway's uplink."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def send(self, *reports: report_service_pb2.GuestReport) -> None:
        await self._stream.write(report_service_pb2.ReportRequest(reports=reports))

    async def acknowledgements(self) -> list[tuple[str, str]]:
        """(id, refusal) of the next answer."""
        response = await self._stream.read()
        assert isinstance(response, report_service_pb2.ReportResponse), response
        return [(item.id, item.refusal_reason) for item in response.acknowledgements]

    async def settle(self) -> None:
        """Wait until everything sent before is taken in: batches are taken in order."""
        mark = str(uuid.uuid4())
        await self.send(change("nobody", 1, 1, change_id=mark))
        while (mark, "UNKNOWN_INSTANCE") not in await self.acknowledgements():
            pass

    async def read(self) -> Any:
        return await self._stream.read()


class ConductorClient:
    """The API, a task manager and a gateway in one."""

    def __init__(self, api: PeerChannel, taskmanager: PeerChannel, gateway: PeerChannel) -> None:
        self._api, self._taskmanager, self._gateway = api, taskmanager, gateway

    @property
    def instances(self) -> instance_service_pb2_grpc.InstanceServiceStub:
        return self._api.stub(instance_service_pb2_grpc.InstanceServiceStub)

    @property
    def operations(self) -> operation_service_pb2_grpc.OperationServiceStub:
        return self._taskmanager.stub(operation_service_pb2_grpc.OperationServiceStub)

    @property
    def reports(self) -> report_service_pb2_grpc.ReportServiceStub:
        return self._gateway.stub(report_service_pb2_grpc.ReportServiceStub)

    async def create(self, **changes: Any) -> tuple[str, str]:
        values: dict[str, Any] = {
            "tenant_id": "demo",
            "name": "db",
            "flavor": resources_pb2.Flavor(id="1", name="db.tiny", ram_mib=512, vcpus=1),
            "volume_size_gib": 1,
            "region": "RegionOne",
        }
        response = await call(
            self.instances.CreateInstance,
            instance_service_pb2.CreateInstanceRequest(**{**values, **changes}),
            timeout=TIMEOUT,
        )
        return response.instance.id, response.operation_id

    async def create_active(self, **changes: Any) -> str:
        instance_id, operation_id = await self.create(**changes)
        await self.finish(operation_id)
        return instance_id

    async def view(self, instance_id: str, tenant_id: str = "demo") -> resources_pb2.InstanceView:
        response = await call(
            self.instances.GetInstanceView,
            instance_service_pb2.GetInstanceViewRequest(
                tenant_id=tenant_id, instance_id=instance_id
            ),
            timeout=TIMEOUT,
        )
        view: resources_pb2.InstanceView = response.instance
        return view

    async def delete(self, instance_id: str) -> str:
        response = await call(
            self.instances.DeleteInstance,
            instance_service_pb2.DeleteInstanceRequest(tenant_id="demo", instance_id=instance_id),
            timeout=TIMEOUT,
        )
        return str(response.operation_id)

    async def finish(
        self,
        operation_id: str,
        state: resources_pb2.OperationState.ValueType = SUCCEEDED,
        **fault: str,
    ) -> None:
        await call(
            self.operations.FinishOperation,
            operation_service_pb2.FinishOperationRequest(
                operation_id=operation_id, state=state, fault=resources_pb2.Fault(**fault)
            ),
            timeout=TIMEOUT,
        )

    async def guest_state(self, instance_id: str) -> operation_service_pb2.GetGuestStateResponse:
        response = await call(
            self.operations.GetGuestState,
            operation_service_pb2.GetGuestStateRequest(instance_id=instance_id),
            timeout=TIMEOUT,
        )
        assert isinstance(response, operation_service_pb2.GetGuestStateResponse)
        return response

    async def lease(self, gateway_id: str = "g1", incarnation: str = "i1") -> None:
        await call(
            self.reports.RenewGatewayLease,
            report_service_pb2.RenewGatewayLeaseRequest(
                gateway_id=gateway_id, incarnation=incarnation, address=f"{gateway_id}:1"
            ),
            timeout=TIMEOUT,
        )

    async def open_session(
        self,
        instance_id: str,
        *,
        tenant_id: str = "demo",
        gateway_id: str = "g1",
        incarnation: str = "i1",
        state: engine_pb2.EngineState.ValueType = HEALTHY,
    ) -> int:
        response = await call(
            self.reports.OpenSession,
            report_service_pb2.OpenSessionRequest(
                gateway_id=gateway_id,
                incarnation=incarnation,
                instance_id=instance_id,
                tenant_id=tenant_id,
                certificate_serial="a1",
                boot_id="boot",
                agent_version="0",
                observation=engine_pb2.Observation(state=state, start_count=1),
            ),
            timeout=TIMEOUT,
        )
        return int(response.session_epoch)

    async def close_session(self, instance_id: str, epoch: int) -> None:
        await call(
            self.reports.CloseSession,
            report_service_pb2.CloseSessionRequest(
                instance_id=instance_id, session_epoch=epoch, reason="gone"
            ),
            timeout=TIMEOUT,
        )

    async def lookup(self, instance_id: str) -> report_service_pb2.LookupSessionResponse:
        stub = self._taskmanager.stub(report_service_pb2_grpc.ReportServiceStub)
        response = await call(
            stub.LookupSession,
            report_service_pb2.LookupSessionRequest(instance_id=instance_id),
            timeout=TIMEOUT,
        )
        assert isinstance(response, report_service_pb2.LookupSessionResponse)
        return response

    @contextlib.asynccontextmanager
    async def reporting(self) -> AsyncIterator[ReportStream]:
        stream = self.reports.Report()
        try:
            yield ReportStream(stream)
        finally:
            stream.cancel()


@contextlib.asynccontextmanager
async def client_of(conductor: RunningConductor) -> AsyncIterator[ConductorClient]:
    async with (
        conductor.channel(Role.API) as api,
        conductor.channel(Role.TASKMANAGER) as taskmanager,
        conductor.channel(Role.GATEWAY) as gateway,
    ):
        yield ConductorClient(api, taskmanager, gateway)


def heartbeat(
    instance_id: str,
    epoch: int,
    sequence: int,
    state: engine_pb2.EngineState.ValueType = HEALTHY,
    **observed: Any,
) -> report_service_pb2.GuestReport:
    return report_service_pb2.GuestReport(
        instance_id=instance_id,
        session_epoch=epoch,
        sequence=sequence,
        heartbeat=guest_session_service_pb2.Heartbeat(
            observation=engine_pb2.Observation(state=state, **{"start_count": 1, **observed})
        ),
    )


def change(
    instance_id: str,
    epoch: int,
    sequence: int,
    state: engine_pb2.EngineState.ValueType = HEALTHY,
    *,
    change_id: str = "c1",
    **observed: Any,
) -> report_service_pb2.GuestReport:
    return report_service_pb2.GuestReport(
        instance_id=instance_id,
        session_epoch=epoch,
        sequence=sequence,
        change=guest_session_service_pb2.Change(
            change_id=change_id,
            observation=engine_pb2.Observation(state=state, **{"start_count": 1, **observed}),
        ),
    )


def backup_update(
    instance_id: str, epoch: int, sequence: int, **update: Any
) -> report_service_pb2.GuestReport:
    return report_service_pb2.GuestReport(
        instance_id=instance_id,
        session_epoch=epoch,
        sequence=sequence,
        backup_update=guest_session_service_pb2.BackupUpdate(**update),
    )
