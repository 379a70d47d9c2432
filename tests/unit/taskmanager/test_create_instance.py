"""create_instance against fakes: order, faults, undo, outages, crashes between any two steps."""

import pytest

from taskmanager.operations import OperationOverError
from taskmanager.operations.create_instance import create_instance
from tests.fakes.taskmanager_peers import (
    INSTANCE,
    OPERATION,
    TENANT,
    VERIFIER,
    Crash,
    MemoryFlow,
    World,
)
from trove_grpc.errors import (
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    UnavailableError,
)
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import resources_pb2

STEPS = [
    "allocate_address",
    "register_identity",
    "boot_guest",
    "await_agent",
    "prepare_engine",
    "await_healthy",
    "finish",
]


@pytest.fixture
def world():
    world = World()
    world.conductor.add_operation()
    world.conductor.set_guest(engine_pb2.ENGINE_STATE_NEW)
    return world


async def run(world, log=None, **deaths):
    flow = MemoryFlow([] if log is None else log, **deaths)
    await create_instance(flow, world.services)
    return flow


async def test_steps_succeed_in_their_public_order(world):
    await run(world)
    assert list(world.conductor.steps().items()) == [(name, "SUCCEEDED") for name in STEPS]
    assert world.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED


async def test_the_guest_and_its_identity_are_what_the_record_says(world):
    await run(world)
    address = world.compute.addresses[INSTANCE]
    name = f"{INSTANCE}.db.local.trove"
    assert world.issuer.subjects[INSTANCE] == (TENANT, (name,), (address,))
    placement = world.conductor.placements[INSTANCE]
    assert (placement.compute_id, list(placement.addresses)) == (INSTANCE, [address])
    assert list(placement.dns_names) == [name]
    spec = world.compute.guests[INSTANCE]
    assert (spec.tenant_id, spec.manager) == (TENANT, "postgresql")
    assert spec.trust_bundle.trust_domain == "local.trove"
    (command,) = world.guests.commands.values()
    assert command.request_id == f"req-{OPERATION}"
    assert list(command.prepare.listen_addresses) == [address]
    assert (command.prepare.port, command.prepare.memory_mib) == (5432, 512)
    assert (command.prepare.manager, command.prepare.version) == ("postgresql", "15")
    assert [database.name for database in command.prepare.databases] == ["shop"]
    assert [user.verifier for user in command.prepare.users] == [VERIFIER]


async def test_no_token_outlives_the_guests_first_call(world):
    log = []
    with pytest.raises(Crash):
        await run(world, log, die_after="boot_guest")
    await run(world, log)
    assert len(world.issuer.tokens) == 2  # the second found a guest that had enrolled
    assert world.issuer.usable == set()


async def test_no_secret_is_in_the_flow_log(world):
    flow = await run(world)
    assert "canary" not in repr(flow.log)
    assert dict(flow.log)["boot_guest"] == '"token-id-1"'


async def test_a_guest_that_never_calls_home_ends_in_a_fault_that_says_what_to_do(world):
    world.conductor.guest_states.clear()
    await run(world)
    operation = world.conductor.operation()
    assert operation.state == resources_pb2.OPERATION_STATE_FAILED
    assert operation.fault.message == (
        "the instance could not be created: await_agent: the guest never called home within 60 s"
    )
    assert "Step: await_agent." in operation.fault.details
    assert "Cause: The agent runs and has no certificate" in operation.fault.details
    assert "Next: `trovectl events INSTANCE`" in operation.fault.details
    assert "`openstack database instance delete INSTANCE`" in operation.fault.details
    assert 60 <= world.clock.now < 62


@pytest.mark.parametrize(
    ("is_running", "has_identity", "cause"),
    [
        (False, False, "its agent does not run"),
        (True, True, "opened no session"),
        (True, None, "The guest runs"),
    ],
)
async def test_the_cause_names_how_far_the_guest_came(world, is_running, has_identity, cause):
    world.conductor.guest_states.clear()
    world.compute.is_running, world.compute.has_identity = is_running, has_identity
    await run(world)
    assert cause in world.conductor.operation().fault.details


async def test_failure_undoes_what_was_done_in_reverse_order(world):
    world.conductor.guest_states.clear()
    await run(world)
    assert world.conductor.steps() == {
        "allocate_address": "UNDONE",
        "register_identity": "UNDONE",
        "boot_guest": "UNDONE",
        "await_agent": "FAILED",
    }
    assert [step for step, state in world.conductor.records if state == "UNDONE"] == [
        "boot_guest",
        "register_identity",
        "allocate_address",
    ]
    assert not world.compute.guests
    assert not world.compute.addresses
    assert INSTANCE in world.issuer.retired


async def test_a_step_that_may_have_happened_is_undone_and_keeps_its_reason(world):
    world.compute.failures["ensure_guest"] = [ConflictError("no user left in the pool")]
    await run(world)
    assert world.conductor.steps()["boot_guest"] == "FAILED"
    assert INSTANCE in world.issuer.retired
    assert not world.compute.addresses
    (detail,) = [
        step.detail for step in world.conductor.operation().steps if step.name == "boot_guest"
    ]
    assert detail == "no user left in the pool"


async def test_an_undo_that_fails_is_told_and_the_others_run(world):
    world.conductor.guest_states.clear()
    world.issuer.failures["retire_subject"] = [ConflictError("audit is full")]
    await run(world)
    assert world.conductor.steps()["register_identity"] == "FAILED"
    assert world.conductor.steps()["allocate_address"] == "UNDONE"
    assert "Not undone yet: register_identity" in world.conductor.operation().fault.details


async def test_what_an_outage_kept_from_being_undone_is_undone_after_it(world):
    world.conductor.guest_states.clear()
    away = UnavailableError("the issuer is away")
    world.issuer.failures["retire_subject"] = [away] * 500  # longer than an undo waits
    await run(world)
    operation = world.conductor.operation()
    assert operation.state == resources_pb2.OPERATION_STATE_FAILED
    assert "Not undone yet: register_identity" in operation.fault.details
    assert INSTANCE in world.issuer.retired
    assert not world.compute.addresses


async def test_cleaning_up_goes_on_after_a_crash(world):
    world.conductor.guest_states.clear()
    world.issuer.failures["retire_subject"] = [ConflictError("audit is full")] * 2
    log = []
    with pytest.raises(Crash):
        await run(world, log, die_before="clean up register_identity")
    assert INSTANCE not in world.issuer.retired
    world.issuer.failures.clear()
    await run(world, log)
    assert INSTANCE in world.issuer.retired


@pytest.mark.parametrize(
    ("peer", "method"),
    [
        ("compute", "allocate_address"),
        ("issuer", "register_subject"),
        ("conductor", "record_placement"),
        ("issuer", "mint_token"),
        ("compute", "ensure_guest"),
        ("conductor", "get_guest_state"),
        ("conductor", "get_users"),
        ("guests", "send_command"),
        ("conductor", "record_step"),
        ("conductor", "finish_operation"),
        ("conductor", "get_input"),
    ],
)
async def test_a_short_outage_of_a_peer_is_waited_out(world, peer, method):
    getattr(world, peer).failures[method] = [UnavailableError("away") for _ in range(5)]
    await run(world)
    assert world.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED
    assert not world.issuer.retired


async def test_an_outage_longer_than_its_deadline_fails_the_step(world):
    world.issuer.failures["register_subject"] = [UnavailableError("away") for _ in range(1000)]
    await run(world)
    assert world.conductor.operation().state == resources_pb2.OPERATION_STATE_FAILED
    assert world.conductor.steps()["register_identity"] == "FAILED"
    assert 590 < world.clock.now < 620


async def test_the_fault_of_an_outage_says_so_before_it_quotes_the_wire(world):
    world.issuer.failures["register_subject"] = [UnavailableError("10.0.0.1: refused")] * 1000
    await run(world)
    fault = world.conductor.operation().fault
    assert fault.message.endswith("what this step needs was away for 600 s")
    assert "Cause: 10.0.0.1: refused" in fault.details


async def test_an_outage_of_the_conductor_never_fails_an_instance(world):
    flow = MemoryFlow([])
    world.conductor.down = True

    def back_after_hours() -> None:
        world.conductor.down = world.clock.now < 4 * 3600

    world.clock.on_sleep = back_after_hours
    await create_instance(flow, world.services)
    assert world.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED


async def test_time_in_which_the_conductor_was_away_does_not_count_against_the_guest(world):
    world.conductor.guest_states.clear()

    def progress() -> None:
        # 50 s of silence, then 300 s without a conductor, then the guest is there after 50 s.
        if world.clock.now > 50 and "outage" not in vars(world):
            world.outage = True
            world.conductor.failures["get_guest_state"] = [
                UnavailableError("away") for _ in range(60)
            ]
        if world.clock.now > 330:
            world.conductor.set_guest(engine_pb2.ENGINE_STATE_HEALTHY)

    world.clock.on_sleep = progress
    await run(world)
    assert world.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED


async def test_a_command_the_guest_refuses_is_told_with_its_reason(world):
    world.guests.failures["send_command"] = [
        InvalidRequestError("database name 'pg_x' is reserved")
    ]
    await run(world)
    fault = world.conductor.operation().fault
    assert fault.message.endswith("prepare_engine: database name 'pg_x' is reserved")


async def test_a_prepare_that_takes_too_long_fails_at_its_deadline(world):
    world.guests.failures["send_command"] = [DeadlineError("no answer in time")]
    await run(world)
    fault = world.conductor.operation().fault
    assert "the engine was not prepared within 120 s" in fault.message


async def test_an_engine_that_fails_is_told_with_the_agents_reason(world):
    class Broken:
        async def send_command(self, instance_id, command):
            world.conductor.set_guest(engine_pb2.ENGINE_STATE_FAILED, "the disk is full")

    object.__setattr__(world.services, "guests", Broken())
    await run(world)
    fault = world.conductor.operation().fault
    assert fault.message.endswith("await_healthy: the engine failed")
    assert "Cause: the disk is full" in fault.details


async def test_an_engine_that_never_answers_is_told_with_its_last_state(world):
    class Slow:
        async def send_command(self, instance_id, command):
            world.conductor.set_guest(engine_pb2.ENGINE_STATE_STARTING, "recovering")

    object.__setattr__(world.services, "guests", Slow())
    await run(world)
    fault = world.conductor.operation().fault
    assert fault.message.endswith("await_healthy: the engine did not answer within 120 s")
    assert "Cause: Its agent last saw it STARTING: recovering" in fault.details


@pytest.mark.parametrize(
    ("peer", "method", "text"),
    [
        ("compute", "ensure_guest", "cannot write token {token}"),
        ("guests", "send_command", f"CREATE ROLE alice PASSWORD '{VERIFIER}' failed"),
    ],
)
async def test_a_peer_that_quotes_a_secret_in_its_error_leaks_nothing(world, peer, method, text):
    getattr(world, peer).failures[method] = [ConflictError(text)]
    flow = await run(world)
    assert "canary" not in repr(flow.log)
    assert "canary" not in str(world.conductor.operation())
    assert "***" in world.conductor.operation().fault.message


async def test_a_cancelled_create_ends_early_and_is_undone(world):
    world.conductor.guest_states.clear()
    flow = MemoryFlow([])
    world.clock.on_sleep = flow.cancelled.set
    await create_instance(flow, world.services)
    assert world.conductor.operation().state == resources_pb2.OPERATION_STATE_FAILED
    assert "cancelled on request" in world.conductor.operation().fault.message
    assert not world.compute.guests
    assert world.clock.now < 2


@pytest.mark.parametrize("death", ["die_before", "die_after"])
@pytest.mark.parametrize("step", [*STEPS, "end"])
async def test_a_crash_around_any_step_changes_nothing_in_the_end(world, step, death):
    log: list[tuple[str, str]] = []
    with pytest.raises(Crash):
        await run(world, log, **{death: step})
    await run(world, log)
    assert list(world.conductor.steps()) == STEPS
    assert set(world.conductor.steps().values()) == {"SUCCEEDED"}
    assert world.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED
    assert world.compute.boots == 1
    assert len(world.guests.commands) == 1
    assert not world.issuer.retired


@pytest.mark.parametrize("death", ["die_before", "die_after"])
@pytest.mark.parametrize(
    "step",
    [
        "await_agent",
        "undo boot_guest",
        "undo register_identity",
        "undo allocate_address",
        "end failed",
    ],
)
async def test_a_crash_while_undoing_undoes_the_rest(world, step, death):
    world.conductor.guest_states.clear()
    log: list[tuple[str, str]] = []
    with pytest.raises(Crash):
        await run(world, log, **{death: step})
    await run(world, log)
    assert world.conductor.steps()["await_agent"] == "FAILED"
    assert world.conductor.operation().state == resources_pb2.OPERATION_STATE_FAILED
    assert not world.compute.guests
    assert INSTANCE in world.issuer.retired


async def test_a_finish_the_conductor_refuses_undoes_nothing(world):
    world.conductor.failures["finish_operation"] = [ConflictError("it has ended otherwise")]
    with pytest.raises(OperationOverError):
        await run(world)
    assert INSTANCE in world.compute.guests
    assert not world.issuer.retired


async def test_an_operation_that_somebody_else_ended_undoes_nothing(world):
    log: list[tuple[str, str]] = []
    with pytest.raises(Crash):
        await run(world, log, die_before="await_healthy")
    world.conductor.operation().state = resources_pb2.OPERATION_STATE_STUCK
    with pytest.raises(OperationOverError):
        await run(world, log)
    assert INSTANCE in world.compute.guests
    assert not world.issuer.retired
