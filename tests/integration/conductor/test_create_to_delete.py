"""An instance's whole life, over mutual TLS and a real SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.certificates import TestAuthority
from tests.fakes.control_plane import RunningConductor, running_conductor
from trove_grpc.client import call
from trove_grpc.errors import ConflictError, NotFoundError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import (
    instance_service_pb2 as instance_pb2,
)
from trove_grpc.gen.conductor.v1 import (
    instance_service_pb2_grpc as instance_rpc,
)
from trove_grpc.gen.conductor.v1 import (
    operation_service_pb2 as operation_pb2,
)
from trove_grpc.gen.conductor.v1 import (
    operation_service_pb2_grpc as operation_rpc,
)
from trove_grpc.gen.conductor.v1 import (
    report_service_pb2 as report_pb2,
)
from trove_grpc.gen.conductor.v1 import (
    report_service_pb2_grpc as report_rpc,
)
from trove_grpc.gen.conductor.v1 import (
    resources_pb2,
)
from trove_grpc.identity import Role

HEALTHY = engine_pb2.Observation(state=engine_pb2.ENGINE_STATE_HEALTHY, start_count=1)
VERIFIER = "SCRAM-SHA-256$4096:canary-salt$canary-stored:canary-server"


@pytest.fixture
async def conductor(tmp_path: Path, authority: TestAuthority) -> AsyncIterator[RunningConductor]:
    async with running_conductor(tmp_path, authority) as running:
        yield running


def a_create(**changes: object) -> instance_pb2.CreateInstanceRequest:
    request = instance_pb2.CreateInstanceRequest(
        request_id="create-1",
        tenant_id="demo",
        name="Größe 東京",
        flavor=resources_pb2.Flavor(id="1", name="db.tiny", ram_mib=512, vcpus=1),
        volume_size_gib=2,
        region="RegionOne",
        databases=[engine_pb2.DatabaseSpec(name="shop", character_set="UTF8")],
        users=[engine_pb2.UserSpec(name="ann", databases=["shop"], verifier=VERIFIER)],
    )
    request.MergeFrom(instance_pb2.CreateInstanceRequest(**changes))
    return request


async def test_create_is_building_until_it_is_finished_and_healthy(
    conductor: RunningConductor,
) -> None:
    async with (
        conductor.channel(Role.API) as api,
        conductor.channel(Role.TASKMANAGER) as taskmanager,
        conductor.channel(Role.GATEWAY) as gateway,
    ):
        instances = api.stub(instance_rpc.InstanceServiceStub)
        operations = taskmanager.stub(operation_rpc.OperationServiceStub)
        reports = gateway.stub(report_rpc.ReportServiceStub)

        created = await call(instances.CreateInstance, a_create(), timeout=5)
        instance_id = created.instance.id
        assert created.instance.name == "Größe 東京"
        assert (created.instance.status, created.instance.operating_status) == ("BUILD", "")
        assert created.instance.datastore_version.name == "15"

        opened = await call(
            operations.ListOpenOperations, operation_pb2.ListOpenOperationsRequest(), timeout=5
        )
        assert [item.id for item in opened.operations] == [created.operation_id]
        entered = await call(
            operations.GetOperationInput,
            operation_pb2.GetOperationInputRequest(operation_id=created.operation_id),
            timeout=5,
        )
        assert entered.engine_port == 5432
        assert [database.name for database in entered.databases] == ["shop"]
        secrets = await call(
            operations.GetOperationSecrets,
            operation_pb2.GetOperationSecretsRequest(operation_id=created.operation_id),
            timeout=5,
        )
        assert secrets.users[0].verifier == VERIFIER

        await call(
            operations.RecordPlacement,
            operation_pb2.RecordPlacementRequest(
                instance_id=instance_id,
                placement=operation_pb2.Placement(compute_id="c1", addresses=["127.1.2.3"]),
            ),
            timeout=5,
        )
        await call(
            reports.RenewGatewayLease,
            report_pb2.RenewGatewayLeaseRequest(
                gateway_id="g1", incarnation="i1", address="127.0.0.1:1"
            ),
            timeout=5,
        )
        session = await call(
            reports.OpenSession,
            report_pb2.OpenSessionRequest(
                gateway_id="g1",
                incarnation="i1",
                instance_id=instance_id,
                tenant_id="demo",
                observation=HEALTHY,
            ),
            timeout=5,
        )
        assert session.session_epoch == 1
        shown = await _view(instances, instance_id)
        assert (shown.status, shown.operating_status) == ("BUILD", "")

        await _finish(operations, created.operation_id, resources_pb2.OPERATION_STATE_SUCCEEDED)
        await _finish(operations, created.operation_id, resources_pb2.OPERATION_STATE_SUCCEEDED)
        shown = await _view(instances, instance_id)
        assert (shown.status, shown.operating_status) == ("ACTIVE", "HEALTHY")
        assert list(shown.addresses) == ["127.1.2.3"]
        with pytest.raises(ConflictError):
            await call(
                operations.GetOperationSecrets,
                operation_pb2.GetOperationSecretsRequest(operation_id=created.operation_id),
                timeout=5,
            )

        deleting = await _delete(instances, instance_id)
        assert await _delete(instances, instance_id) == deleting
        assert (await _view(instances, instance_id)).status == "SHUTDOWN"
        await _finish(operations, deleting, resources_pb2.OPERATION_STATE_SUCCEEDED)
        await _finish(operations, deleting, resources_pb2.OPERATION_STATE_SUCCEEDED)
        with pytest.raises(NotFoundError):
            await _view(instances, instance_id)
        with pytest.raises(NotFoundError):
            await _delete(instances, instance_id)
        quota = await call(
            instances.GetQuota, instance_pb2.GetQuotaRequest(tenant_id="demo"), timeout=5
        )
        assert {(item.in_use, item.reserved) for item in quota.resources} == {(0, 0)}


async def test_verifier_is_in_no_file_of_the_database(conductor: RunningConductor) -> None:
    async with conductor.channel(Role.API) as api:
        instances = api.stub(instance_rpc.InstanceServiceStub)
        await call(instances.CreateInstance, a_create(), timeout=5)
    files = list(conductor.folder.glob("conductor.db*"))
    assert len(files) >= 2
    assert all(b"canary" not in file.read_bytes() for file in files)
    with sqlite3.connect(f"file:{conductor.folder}/conductor.db?mode=ro", uri=True) as raw:
        assert raw.execute("select count(*) from operation_secrets").fetchone() == (1,)
    raw.close()


async def _view(instances: instance_rpc.InstanceServiceStub, instance_id: str):
    response = await call(
        instances.GetInstanceView,
        instance_pb2.GetInstanceViewRequest(tenant_id="demo", instance_id=instance_id),
        timeout=5,
    )
    return response.instance


async def _delete(instances: instance_rpc.InstanceServiceStub, instance_id: str) -> str:
    response = await call(
        instances.DeleteInstance,
        instance_pb2.DeleteInstanceRequest(tenant_id="demo", instance_id=instance_id),
        timeout=5,
    )
    return response.operation_id


async def _finish(
    operations: operation_rpc.OperationServiceStub,
    operation_id: str,
    state: resources_pb2.OperationState.ValueType,
) -> None:
    await call(
        operations.FinishOperation,
        operation_pb2.FinishOperationRequest(operation_id=operation_id, state=state),
        timeout=5,
    )
