"""Bring an engine to the configuration its instance is meant to have.

The values are read when the step runs: what was meant last is applied, whatever was meant when
the operation began. Nothing is undone: an engine that refuses keeps what it has, and so does one
that cannot be reached.
"""

from __future__ import annotations

import uuid

from google.protobuf import duration_pb2

from taskmanager.flows import Flow, Json, StepFailedError
from taskmanager.operations import Input, OperationRun, Services
from trove_grpc.errors import DeadlineError
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

# Command ids are derived, so that a step that runs again sends the same command.
_COMMANDS = uuid.UUID("c0c6a2a5-41b2-4f0e-8d0c-2f0b2f6f0e11")
# What a healthy engine's reason begins with where values wait for its next start, and where the
# last ones were given up.
_RESTART_REQUIRED = "restart_required: "
_REVERTED = "configuration_reverted: "


async def apply_configuration(flow: Flow, services: Services) -> None:
    run = OperationRun(flow, services)
    try:
        await run.step("configure_engine", configure_engine)
    except StepFailedError as failure:
        await run.fail(
            failure,
            "the configuration could not be applied; the engine keeps the values it had",
            (
                "change the group: `openstack database configuration set`",
                "or take it away: `openstack database configuration detach INSTANCE`",
            ),
            "",
        )
        return
    await run.finish()


async def configure_engine(run: OperationRun, given: Input) -> Json:
    """Returns how much waits for a restart, once the record shows that it does.

    A number: the guest chose the names, and what a guest says is not kept in the flow log.
    """
    result = await send_configuration(run, given)
    pending = len(result.configure.pending_restart)
    if pending:
        await _await_report(run, given.operation.instance_id)
    return pending


async def send_configuration(run: OperationRun, given: Input) -> guest_pb2.CommandResult:
    command = _command(run, given, "configure")
    command.configure.parameters.extend(given.parameters)
    try:
        return await run.services.guests.send_command(given.operation.instance_id, command)
    except DeadlineError as error:
        raise StepFailedError(
            "the engine did not take its configuration in time\n"
            "The agent took the command and did not answer; its log says how far it came.",
            reason="ENGINE_DEADLINE",
        ) from error


async def configure_new_engine(run: OperationRun, given: Input) -> None:
    """For a new engine, that nobody uses yet: with a restart where one is needed."""
    if not given.parameters:
        return
    result = await send_configuration(run, given)
    if not result.configure.pending_restart:
        return
    command = _command(run, given, "restart")
    command.restart.SetInParent()
    result = await run.services.guests.send_command(given.operation.instance_id, command)
    reason = result.engine.observation.reason
    if reason.startswith(_REVERTED):
        raise StepFailedError(
            f"the engine does not start with its configuration group\n{reason}",
            reason="CONFIGURATION_REVERTED",
        )


async def _await_report(run: OperationRun, instance_id: str) -> None:
    """Until the agent's own word has come, so that the status is right when we finish.

    It comes at once or, should this guest have restarted meanwhile, never: not our failure.
    """

    async def is_reported() -> bool | None:
        state = await run.services.conductor.get_guest_state(instance_id)
        return True if state.observation.reason.startswith(_RESTART_REQUIRED) else None

    await run.poll(is_reported, run.services.limits.agent)


def _command(run: OperationRun, given: Input, name: str) -> guest_pb2.Command:
    operation = given.operation
    limit = run.services.limits.engine
    return guest_pb2.Command(
        command_id=str(uuid.uuid5(_COMMANDS, f"{operation.id}/{name}")),
        timeout=duration_pb2.Duration(seconds=int(limit.total_seconds())),
        request_id=operation.request_id,
        operation_id=operation.id,
    )
