"""Create an instance: from an accepted record to an engine that answers.

Step names are public; REST and `trovectl events` show them.
"""

from __future__ import annotations

import functools

from taskmanager.compute import Guest, GuestSpec
from taskmanager.flows import Flow, StepFailedError
from taskmanager.operations import Input, OperationRun, Services, hiding
from taskmanager.operations.apply_configuration import configure_new_engine
from taskmanager.operations.delete_instance import remove_guest, retire_identity
from taskmanager.operations.engine_commands import send
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import operation_service_pb2 as operations_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

_UNDOS = {
    "allocate_address": remove_guest,
    "register_identity": retire_identity,
    "boot_guest": remove_guest,
}


async def create_instance(flow: Flow, services: Services) -> None:
    run = OperationRun(flow, services)
    try:
        async with flow.undo_on_failure() as undo:
            undo("allocate_address", run.undo("allocate_address", _UNDOS["allocate_address"]))
            address = await run.step("allocate_address", allocate_address)
            undo("register_identity", run.undo("register_identity", _UNDOS["register_identity"]))
            await run.step(
                "register_identity", functools.partial(register_identity, address=address)
            )
            undo("boot_guest", run.undo("boot_guest", _UNDOS["boot_guest"]))
            await run.step("boot_guest", functools.partial(boot_guest, address=address))
            await run.step("await_agent", await_agent)
            await run.step("prepare_engine", functools.partial(prepare_engine, address=address))
            await run.step("await_healthy", await_healthy)
    except StepFailedError as failure:
        left = ", ".join(undo.failed)
        await run.fail(
            failure,
            "the instance could not be created",
            (
                "`trovectl events INSTANCE` shows every step",
                "`openstack database instance delete INSTANCE` removes it",
            ),
            f"Not undone yet: {left}; it is tried again, also by deleting the instance."
            if left
            else "",
        )
        await run.clean_up(undo.failed, _UNDOS)
        return
    await run.finish()


async def allocate_address(run: OperationRun, given: Input) -> str:
    return await run.services.compute.allocate_address(
        given.operation.instance_id, given.engine_port
    )


async def register_identity(run: OperationRun, given: Input, *, address: str) -> None:
    instance_id = given.operation.instance_id
    placement = _placement(run, given, address)
    await run.services.issuer.register_subject(
        instance_id,
        given.operation.tenant_id,
        dns_names=list(placement.dns_names),
        ip_addresses=list(placement.addresses),
    )
    await run.services.conductor.record_placement(instance_id, placement)


async def boot_guest(run: OperationRun, given: Input, *, address: str) -> str:
    """Mint a token and boot. Returns the token's id; a replay mints a new one, voiding the old."""
    services, operation = run.services, given.operation
    token = await services.issuer.mint_token(operation.instance_id)
    spec = GuestSpec(
        instance_id=operation.instance_id,
        tenant_id=operation.tenant_id,
        manager=given.instance.datastore_version.manager,
        enrolment_token=token.secret,
        trust_bundle=services.bundle(),
        enrolment_endpoints=services.enrolment_endpoints,
        guest_endpoints=services.guest_endpoints,
    )
    with hiding(token.secret.reveal()):
        guest = await services.compute.ensure_guest(spec)
    placement = _placement(run, given, address)
    placement.compute_id = guest.compute_id
    await services.conductor.record_placement(operation.instance_id, placement)
    return token.id


async def await_agent(run: OperationRun, given: Input) -> None:
    instance_id = given.operation.instance_id

    async def is_present() -> bool | None:
        state = await run.services.conductor.get_guest_state(instance_id)
        return True if state.is_present else None

    limit = run.services.limits.agent
    if await run.poll(is_present, limit) is None:
        guest = await run.services.compute.find_guest(instance_id)
        raise StepFailedError(
            f"the guest never called home within {limit.total_seconds():g} s\n"
            f"{_why_silent(guest)}",
            reason="AGENT_SILENT",
        )
    # boot_guest, run again after a crash, minted a token for a guest that had enrolled by then.
    await run.services.issuer.void_tokens(instance_id)


async def prepare_engine(run: OperationRun, given: Input, *, address: str) -> None:
    services, operation = run.services, given.operation
    users = await services.conductor.get_users(operation.id)
    action = guest_pb2.PrepareAction(
        manager=given.instance.datastore_version.manager,
        version=given.instance.datastore_version.name,
        listen_addresses=[address],
        port=given.engine_port,
        memory_mib=given.instance.flavor.ram_mib,
        databases=given.databases,
        users=users,
    )
    with hiding(*(user.verifier for user in users)):
        await send(
            run, given, "prepare_engine", "prepared", limit=services.limits.engine, prepare=action
        )
    # No step of its own: flows of the release before would take other steps than they recorded.
    await configure_new_engine(run, given)


async def await_healthy(run: OperationRun, given: Input) -> None:
    instance_id = given.operation.instance_id
    last = engine_pb2.Observation()

    async def has_settled() -> engine_pb2.Observation | None:
        state = await run.services.conductor.get_guest_state(instance_id)
        last.CopyFrom(state.observation)
        settled = last.state in (
            engine_pb2.ENGINE_STATE_HEALTHY,
            engine_pb2.ENGINE_STATE_FAILED,
        )
        return last if state.is_present and settled else None

    limit = run.services.limits.engine
    found = await run.poll(has_settled, limit)
    state = engine_pb2.EngineState.Name(last.state).removeprefix("ENGINE_STATE_")
    reason = last.reason or "the agent gave no reason"
    if found is None:
        raise StepFailedError(
            f"the engine did not answer within {limit.total_seconds():g} s\n"
            f"Its agent last saw it {state}: {reason}",
            reason="ENGINE_DEADLINE",
        )
    if found.state == engine_pb2.ENGINE_STATE_FAILED:
        raise StepFailedError(f"the engine failed\n{reason}", reason="ENGINE_FAILED")


def _placement(run: OperationRun, given: Input, address: str) -> operations_pb2.Placement:
    domain = run.services.bundle().trust_domain
    if not domain:
        raise InvalidRequestError("the trust bundle names no trust domain")
    return operations_pb2.Placement(
        compute_id=given.placement.compute_id,
        addresses=[address],
        dns_names=[f"{given.operation.instance_id}.db.{domain}"],
    )


def _why_silent(guest: Guest | None) -> str:
    if guest is None:
        return "The compute driver no longer has the guest."
    if not guest.is_running:
        return "The guest exists and its agent does not run; its log says why it ended."
    if guest.has_identity is False:
        return (
            "The agent runs and has no certificate: it could not enrol. Look at the agent's log "
            "and whether it can reach the enrolment endpoint."
        )
    if guest.has_identity:
        return (
            "The agent runs and has its certificate, and opened no session. Look at the agent's "
            "log and whether it can reach the guest endpoint."
        )
    return "The guest runs. Look at the agent's log in it and at its way to the guest gateway."
