"""Resize an instance: its volume, or its flavor, which is the memory its engine runs with.

The record takes the new size when the operation succeeds; until then, and for ever where it
fails, it says what the instance has.
"""

from __future__ import annotations

from google.protobuf import duration_pb2

from taskmanager.flows import Flow, StepFailedError
from taskmanager.operations import Input, OperationRun, Services
from taskmanager.operations.create_instance import await_healthy
from taskmanager.operations.engine_commands import send
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

_NEXT = (
    "`trovectl events INSTANCE` shows every step",
    "the instance has its former size; repeat the resize with another one",
)


async def resize_volume(flow: Flow, services: Services) -> None:
    run = OperationRun(flow, services)
    try:
        await run.step("grow_volume", grow_volume)
    except StepFailedError as failure:
        await run.fail(failure, "the volume could not be resized", _NEXT, "")
        return
    await run.finish()


async def resize_flavor(flow: Flow, services: Services) -> None:
    run = OperationRun(flow, services)
    try:
        async with flow.undo_on_failure() as undo:
            undo("resize_engine", run.undo("resize_engine", restore_engine))
            await run.step("resize_engine", resize_engine)
            await run.step("await_healthy", await_healthy)
    except StepFailedError as failure:
        left = ", ".join(undo.failed)
        await run.fail(
            failure,
            "the instance could not be resized",
            _NEXT,
            f"Not undone yet: {left}; it is tried again." if left else "",
        )
        await run.clean_up(undo.failed, {"resize_engine": restore_engine})
        return
    await run.finish()


async def grow_volume(run: OperationRun, given: Input) -> None:
    await run.services.compute.grow_volume(
        given.operation.instance_id, given.target_volume_size_gib
    )


async def resize_engine(run: OperationRun, given: Input) -> None:
    await _resize(run, given, "resize_engine", given.target_flavor.ram_mib)


async def restore_engine(run: OperationRun, given: Input) -> None:
    """Go back, if the agent did not: it does so itself when the engine does not start."""
    await _resize(run, given, "restore_engine", given.instance.flavor.ram_mib)


async def _resize(run: OperationRun, given: Input, step: str, memory_mib: int) -> None:
    limit = run.services.limits.engine
    seconds = int(limit.total_seconds())
    action = guest_pb2.ResizeAction(
        memory_mib=memory_mib,
        previous_memory_mib=given.instance.flavor.ram_mib,
        patience=duration_pb2.Duration(seconds=seconds),
    )
    # Twice as long: where the new size fails, the agent goes back to the present one.
    await send(run, given, step, "resized", limit=2 * limit, resize=action)
