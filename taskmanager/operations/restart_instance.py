"""Restart an instance's engine, or stop it: one command, of which a repeat is harmless."""

from __future__ import annotations

from taskmanager.flows import Flow, StepFailedError
from taskmanager.operations import Input, OperationRun, Services
from taskmanager.operations.create_instance import await_healthy
from taskmanager.operations.engine_commands import send
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2


async def restart_instance(flow: Flow, services: Services) -> None:
    run = OperationRun(flow, services)
    try:
        await run.step("restart_engine", restart_engine)
        await run.step("await_healthy", await_healthy)
    except StepFailedError as failure:
        await run.fail(
            failure,
            "the instance could not be restarted",
            (
                "`trovectl events INSTANCE` shows every step",
                "repeat `openstack database instance restart INSTANCE` once the cause is gone",
            ),
            "",
        )
        return
    await run.finish()


async def stop_instance(flow: Flow, services: Services) -> None:
    run = OperationRun(flow, services)
    try:
        await run.step("stop_engine", stop_engine)
    except StepFailedError as failure:
        await run.fail(
            failure,
            "the instance could not be stopped",
            ("`trovectl events INSTANCE` shows every step", "repeat it once the cause is gone"),
            "",
        )
        return
    await run.finish()


async def restart_engine(run: OperationRun, given: Input) -> None:
    limit = run.services.limits.engine
    action = guest_pb2.RestartAction()
    await send(run, given, "restart_engine", "restarted", limit=limit, restart=action)


async def stop_engine(run: OperationRun, given: Input) -> None:
    limit = run.services.limits.engine
    await send(run, given, "stop_engine", "stopped", limit=limit, stop=guest_pb2.StopAction())
