"""restart, stop and resize against fakes: order, faults, undo, crashes between any two steps."""

import pytest

from taskmanager.operations.resize_instance import resize_flavor, resize_volume
from taskmanager.operations.restart_instance import restart_instance, stop_instance
from tests.fakes.taskmanager_peers import INSTANCE, Crash, MemoryFlow, World
from trove_grpc.errors import ConflictError, DeadlineError, TroveError, UnavailableError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import resources_pb2

FLOWS = {
    restart_instance: ["restart_engine", "await_healthy", "finish"],
    stop_instance: ["stop_engine", "finish"],
    resize_volume: ["grow_volume", "finish"],
    resize_flavor: ["resize_engine", "await_healthy", "finish"],
}
CRASHES = [
    (function, step, death)
    for function, steps in FLOWS.items()
    for step in [*steps, "end"]
    for death in ("die_before", "die_after")
]
REVERTED = TroveError(
    "the engine does not run with 4096 MiB of memory; it has 512 MiB again\nout of memory",
    reason="ENGINE_RESIZE_FAILED",
)


@pytest.fixture
def world():
    world = World()
    world.conductor.add_operation(kind="any")
    given = world.conductor.inputs[world.conductor.operation().id]
    given.target_flavor.ram_mib = 4096
    given.target_volume_size_gib = 7
    world.conductor.set_guest(engine_pb2.ENGINE_STATE_HEALTHY)
    return world


def ended(world):
    return resources_pb2.OperationState.Name(world.conductor.operation().state)


@pytest.mark.parametrize("function", FLOWS)
async def test_steps_succeed_in_their_public_order(world, function):
    await function(MemoryFlow([]), world.services)
    assert list(world.conductor.steps().items()) == [
        (name, "SUCCEEDED") for name in FLOWS[function]
    ]
    assert ended(world) == "OPERATION_STATE_SUCCEEDED"


@pytest.mark.parametrize(("function", "step", "death"), CRASHES)
async def test_a_crash_around_any_step_changes_nothing_in_the_end(world, function, step, death):
    log: list[tuple[str, str]] = []
    with pytest.raises(Crash):
        await function(MemoryFlow(log, **{death: step}), world.services)
    await function(MemoryFlow(log), world.services)
    assert list(world.conductor.steps()) == FLOWS[function]
    assert ended(world) == "OPERATION_STATE_SUCCEEDED"
    assert len(world.guests.commands) == (function is not resize_volume)


async def test_the_engine_gets_the_new_memory_and_knows_what_to_go_back_to(world):
    await resize_flavor(MemoryFlow([]), world.services)
    (command,) = world.guests.commands.values()
    assert (command.resize.memory_mib, command.resize.previous_memory_mib) == (4096, 512)
    assert command.resize.patience.seconds == 120
    assert command.timeout.seconds == 240  # there and back


async def test_a_volume_grows_by_the_compute_driver(world):
    await resize_volume(MemoryFlow([]), world.services)
    assert world.compute.volumes == {INSTANCE: 7}


async def test_a_resize_the_agent_took_back_fails_with_its_reason(world):
    world.guests.failures["send_command"] = [REVERTED]
    await resize_flavor(MemoryFlow([]), world.services)
    operation = world.conductor.operation()
    assert ended(world) == "OPERATION_STATE_FAILED"
    assert operation.fault.message == (
        "the instance could not be resized: resize_engine: the engine does not run with 4096 MiB "
        "of memory; it has 512 MiB again"
    )
    assert "Cause: out of memory" in operation.fault.details
    assert "the instance has its former size" in operation.fault.details
    # Sent all the same: an agent that runs with it already does nothing.
    (command,) = world.guests.commands.values()
    assert (command.resize.memory_mib, command.resize.previous_memory_mib) == (512, 512)


async def test_an_engine_that_does_not_get_well_is_given_its_memory_back(world):
    def fail_at_first() -> None:
        world.conductor.set_guest(engine_pb2.ENGINE_STATE_BLOCKED, "it answers nothing")

    world.clock.on_sleep = fail_at_first
    sent = world.guests.send_command

    async def send(instance_id, command):
        result = await sent(instance_id, command)
        fail_at_first()
        return result

    world.guests.send_command = send
    await resize_flavor(MemoryFlow([]), world.services)
    assert world.conductor.steps() == {"resize_engine": "UNDONE", "await_healthy": "FAILED"}
    assert [each.resize.memory_mib for each in world.guests.commands.values()] == [4096, 512]
    assert "it answers nothing" in world.conductor.operation().fault.details


async def test_what_could_not_be_undone_in_time_is_told_and_undone_later(world):
    away = [UnavailableError("no session")] * 200
    world.guests.failures["send_command"] = [DeadlineError("no answer"), *away]
    await resize_flavor(MemoryFlow([]), world.services)
    assert "Not undone yet: resize_engine" in world.conductor.operation().fault.details
    (command,) = world.guests.commands.values()
    assert command.resize.memory_mib == 512


@pytest.mark.parametrize(
    ("function", "verb"), [(restart_instance, "restarted"), (stop_instance, "stopped")]
)
async def test_a_guests_refusal_is_the_fault(world, function, verb):
    world.guests.failures["send_command"] = [ConflictError("PostgreSQL does not stop: busy")]
    await function(MemoryFlow([]), world.services)
    assert ended(world) == "OPERATION_STATE_FAILED"
    fault = world.conductor.operation().fault
    assert fault.message.startswith(f"the instance could not be {verb}: ")
    assert fault.message.endswith("PostgreSQL does not stop: busy")
    assert "Next: " in fault.details


async def test_a_short_outage_is_waited_out(world):
    world.guests.failures["send_command"] = [UnavailableError("away")] * 3
    await restart_instance(MemoryFlow([]), world.services)
    assert ended(world) == "OPERATION_STATE_SUCCEEDED"
