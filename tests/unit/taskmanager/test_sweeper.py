"""The sweep: open operations compared with flows."""

import asyncio
import datetime as dt

import pytest

from taskmanager.flows import FlowState, FlowStatus
from taskmanager.service import TaskManagerService
from taskmanager.sweeper import Sweeper
from tests.fakes.compute import FakeCompute
from tests.fakes.taskmanager_peers import INSTANCE, OPERATION, FakeConductor, FakeFlowLog
from trove_grpc.errors import NotFoundError, UnavailableError
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.gen.taskmanager.v1 import task_manager_service_pb2 as pb

KINDS = ("create_instance", "delete_instance")


@pytest.fixture
def conductor():
    conductor = FakeConductor()
    conductor.add_operation()
    return conductor


@pytest.fixture
def flows():
    return FakeFlowLog()


@pytest.fixture
def sweeper(conductor, flows):
    return Sweeper(
        conductor,
        flows,
        kinds=KINDS,
        interval=dt.timedelta(seconds=0.01),
        retention=dt.timedelta(days=7),
    )


async def test_an_operation_without_flow_gets_one_keyed_by_its_instance(sweeper, flows):
    await sweeper.sweep()
    assert flows.submitted == [("create_instance", OPERATION, INSTANCE)]


async def test_an_operation_with_a_running_flow_is_left_alone(sweeper, flows):
    await sweeper.sweep()
    await sweeper.sweep()
    assert len(flows.submitted) == 1


async def test_a_broken_flow_makes_its_operation_stuck_and_says_why(sweeper, flows, conductor):
    flows.flows[OPERATION] = FlowStatus(
        OPERATION, "create_instance", FlowState.BROKEN, "FlowBrokenError: DBOSUnexpectedStepError"
    )
    await sweeper.sweep()
    operation = conductor.operation()
    assert operation.state == resources_pb2.OPERATION_STATE_STUCK
    assert "nothing was undone" in operation.fault.message
    assert "DBOSUnexpectedStepError" in operation.fault.details
    assert f"`trovectl events {INSTANCE}`" in operation.fault.details


async def test_an_operation_that_ended_since_it_was_listed_is_not_stuck(sweeper, flows, conductor):
    flows.flows[OPERATION] = FlowStatus(OPERATION, "create_instance", FlowState.DONE)
    listed = await conductor.list_open_operations()
    conductor.operation().state = resources_pb2.OPERATION_STATE_SUCCEEDED

    async def stale():
        return listed

    conductor.list_open_operations = stale
    await sweeper.sweep()
    assert conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED


async def test_a_flow_that_ended_while_its_operation_stays_open_is_stuck(
    sweeper, flows, conductor
):
    flows.flows[OPERATION] = FlowStatus(OPERATION, "create_instance", FlowState.DONE)
    await sweeper.sweep()
    assert conductor.operation().state == resources_pb2.OPERATION_STATE_STUCK


async def test_an_unknown_kind_waits_for_a_newer_task_manager(sweeper, flows, conductor):
    conductor.operation().kind = "teleport_instance"
    await sweeper.sweep()
    assert flows.submitted == []
    assert conductor.operation().state == resources_pb2.OPERATION_STATE_PENDING


async def test_a_delete_cancels_what_still_builds_the_instance_and_nothing_else(
    sweeper, flows, conductor
):
    conductor.add_operation("delete-1", "delete_instance")
    conductor.add_operation("create-2", "create_instance", "another-instance")
    await sweeper.sweep()
    assert flows.cancelled == [OPERATION]


async def test_a_sweep_that_fails_is_tried_again(sweeper, flows, conductor):
    conductor.failures["list_open_operations"] = [UnavailableError("away")] * 2
    task = asyncio.create_task(sweeper.run())
    async with asyncio.timeout(10):
        await flows.was_submitted.wait()
    task.cancel()


async def test_ended_flows_are_dropped_after_their_retention(sweeper, flows):
    task = asyncio.create_task(sweeper.run())
    async with asyncio.timeout(10):
        await flows.was_dropped.wait()
    task.cancel()
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(flows.dropped_before[0])
    assert dt.timedelta(days=7) <= age < dt.timedelta(days=7, minutes=1)


async def test_wake_starts_the_flow_at_once_and_twice_is_harmless(sweeper, flows, conductor):
    service = TaskManagerService(conductor, sweeper, FakeCompute())
    for _ in range(2):
        await service.Wake(pb.WakeRequest(operation_id=OPERATION), None)
    assert set(flows.submitted) == {("create_instance", OPERATION, INSTANCE)}


async def test_wake_for_an_ended_or_unknown_operation_starts_nothing(sweeper, flows, conductor):
    service = TaskManagerService(conductor, sweeper, FakeCompute())
    conductor.operation().state = resources_pb2.OPERATION_STATE_SUCCEEDED
    await service.Wake(pb.WakeRequest(operation_id=OPERATION), None)
    with pytest.raises(NotFoundError):
        await service.Wake(pb.WakeRequest(operation_id="nothing"), None)
    assert flows.submitted == []


async def test_flavors_are_the_drivers(sweeper, conductor):
    service = TaskManagerService(conductor, sweeper, FakeCompute())
    response = await service.ListFlavors(pb.ListFlavorsRequest(), None)
    assert [(flavor.id, flavor.name, flavor.ram_mib) for flavor in response.flavors] == [
        ("1", "db.tiny", 512)
    ]
