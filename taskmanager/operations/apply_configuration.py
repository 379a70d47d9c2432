"""Bring an engine to the configuration its instance is meant to have.

The values are read when the step runs: what was meant last is applied, whatever was meant when
the operation began. Nothing is undone: an engine that refuses keeps what it has, and so does one
that cannot be reached.
"""

from __future__ import annotations

from taskmanager.flows import Flow, Json, StepFailedError
from taskmanager.operations import Input, OperationRun, Services
from taskmanager.operations.engine_commands import send
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

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
    action = guest_pb2.ConfigureAction(parameters=given.parameters)
    return await send(
        run, given, "configure", "configured", limit=run.services.limits.engine, configure=action
    )


async def configure_new_engine(run: OperationRun, given: Input) -> None:
    """For a new engine, that nobody uses yet: with a restart where one is needed."""
    if not given.parameters:
        return
    result = await send_configuration(run, given)
    if not result.configure.pending_restart:
        return
    restart = guest_pb2.RestartAction()
    result = await send(
        run, given, "restart", "restarted", limit=run.services.limits.engine, restart=restart
    )
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
