"""apply_configuration against fakes, and the group of a new instance."""

import pytest

from taskmanager.operations.apply_configuration import apply_configuration
from taskmanager.operations.create_instance import create_instance
from tests.fakes.taskmanager_peers import INSTANCE, OPERATION, Crash, MemoryFlow, World
from trove_grpc.errors import ConflictError, UnavailableError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import resources_pb2

VALUES = [
    engine_pb2.Parameter(name="max_connections", integer=66),
    engine_pb2.Parameter(name="jit", boolean=False),
]


def begin(world: World, kind: str = "apply_configuration") -> World:
    world.conductor.add_operation(kind=kind)
    world.conductor.inputs[OPERATION].parameters.extend(VALUES)
    world.conductor.set_guest(engine_pb2.ENGINE_STATE_HEALTHY)
    return world


@pytest.fixture
def world():
    return begin(World())


def state(world: World) -> str:
    return resources_pb2.OperationState.Name(world.conductor.operation().state)


def kinds(world: World) -> list[str]:
    return [command.WhichOneof("action") for command in world.guests.commands.values()]


async def test_values_travel_typed_and_the_operation_ends(world):
    await apply_configuration(MemoryFlow([]), world.services)
    (command,) = world.guests.commands.values()
    assert list(command.configure.parameters) == VALUES
    assert command.request_id == f"req-{OPERATION}"
    assert state(world) == "OPERATION_STATE_SUCCEEDED"
    assert world.conductor.steps() == {"configure_engine": "SUCCEEDED", "finish": "SUCCEEDED"}


async def test_operation_ends_only_when_the_record_shows_that_a_restart_is_due(world):
    world.guests.pending_restart = ["max_connections"]
    reason = "restart_required: max_connections"

    def report() -> None:
        assert state(world) == "OPERATION_STATE_RUNNING"
        world.conductor.set_guest(engine_pb2.ENGINE_STATE_HEALTHY, reason)

    world.clock.on_sleep = report
    flow = MemoryFlow([])
    await apply_configuration(flow, world.services)
    assert state(world) == "OPERATION_STATE_SUCCEEDED"
    assert dict(flow.log)["configure_engine"] == "1"


async def test_refusal_fails_the_operation_with_the_engines_words(world):
    world.guests.failures["send_command"] = [ConflictError("PostgreSQL refuses: 66 is odd")]
    await apply_configuration(MemoryFlow([]), world.services)
    assert state(world) == "OPERATION_STATE_FAILED"
    fault = world.conductor.operation().fault
    assert "PostgreSQL refuses: 66 is odd" in fault.message
    assert "detach" in fault.details


async def test_outage_is_waited_for_and_a_crash_sends_the_same_command(world):
    world.guests.failures["send_command"] = [UnavailableError("away")] * 3
    log = []
    with pytest.raises(Crash):
        await apply_configuration(MemoryFlow(log, die_after="configure_engine"), world.services)
    await apply_configuration(MemoryFlow(log), world.services)
    assert state(world) == "OPERATION_STATE_SUCCEEDED"
    assert len(world.guests.commands) == 1
    assert world.guests.received == 2


async def test_new_instance_is_configured_and_restarted_where_that_is_needed():
    world = begin(World(), "create_instance")
    world.guests.pending_restart = ["max_connections"]
    await create_instance(MemoryFlow([]), world.services)
    assert kinds(world) == ["prepare", "configure", "restart"]
    assert state(world) == "OPERATION_STATE_SUCCEEDED"

    world = begin(World(), "create_instance")
    await create_instance(MemoryFlow([]), world.services)
    assert kinds(world) == ["prepare", "configure"]


async def test_new_instance_whose_engine_does_not_start_with_its_group_is_not_created():
    world = begin(World(), "create_instance")
    world.guests.pending_restart = ["huge_pages"]
    world.guests.reasons["restart"] = "configuration_reverted: PostgreSQL does not start"
    await create_instance(MemoryFlow([]), world.services)
    assert state(world) == "OPERATION_STATE_FAILED"
    assert "PostgreSQL does not start" in world.conductor.operation().fault.details
    assert INSTANCE not in world.compute.guests
