"""delete_instance against fakes."""

import pytest

from taskmanager.compute import GuestSpec
from taskmanager.operations.delete_instance import delete_instance
from tests.fakes.taskmanager_peers import INSTANCE, Crash, MemoryFlow, World
from trove_grpc.errors import ConflictError, UnavailableError
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.redaction import Secret

STEPS = ["remove_guest", "retire_identity", "finish"]


@pytest.fixture
async def world():
    world = World()
    world.conductor.add_operation(kind="delete_instance")
    spec = GuestSpec(
        instance_id=INSTANCE,
        tenant_id="demo",
        manager="postgresql",
        enrolment_token=Secret("t"),
        trust_bundle=world.services.bundle(),
        enrolment_endpoints=(),
        guest_endpoints=(),
    )
    await world.compute.ensure_guest(spec)
    return world


async def test_guest_and_identity_go_and_the_operation_ends(world):
    await delete_instance(MemoryFlow([]), world.services)
    assert list(world.conductor.steps().items()) == [(name, "SUCCEEDED") for name in STEPS]
    assert not world.compute.guests
    assert INSTANCE in world.issuer.retired
    assert world.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED


async def test_deleting_what_is_already_gone_succeeds(world):
    await world.compute.remove_guest(INSTANCE)
    await delete_instance(MemoryFlow([]), world.services)
    assert world.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED


async def test_a_guest_that_cannot_be_removed_keeps_its_identity_and_the_record(world):
    world.compute.failures["remove_guest"] = [ConflictError("process 42 does not end")]
    await delete_instance(MemoryFlow([]), world.services)
    operation = world.conductor.operation()
    assert operation.state == resources_pb2.OPERATION_STATE_FAILED
    assert operation.fault.message.endswith("remove_guest: process 42 does not end")
    assert "repeat `openstack database instance delete" in operation.fault.details
    assert not world.issuer.retired


async def test_a_short_outage_is_waited_out(world):
    world.compute.failures["remove_guest"] = [UnavailableError("away")] * 3
    await delete_instance(MemoryFlow([]), world.services)
    assert world.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED


@pytest.mark.parametrize("death", ["die_before", "die_after"])
@pytest.mark.parametrize("step", [*STEPS, "end"])
async def test_a_crash_around_any_step_changes_nothing_in_the_end(world, step, death):
    log: list[tuple[str, str]] = []
    with pytest.raises(Crash):
        await delete_instance(MemoryFlow(log, **{death: step}), world.services)
    await delete_instance(MemoryFlow(log), world.services)
    assert list(world.conductor.steps()) == STEPS
    assert world.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED
