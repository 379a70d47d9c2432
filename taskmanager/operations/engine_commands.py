"""Commands to an instance's engine as steps send them: repeatable, bounded, told in words."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from google.protobuf import duration_pb2

from taskmanager.flows import StepFailedError
from taskmanager.operations import Input, OperationRun
from trove_grpc.errors import DeadlineError
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

# Command ids are derived, so that a step that runs again sends the same command.
_COMMANDS = uuid.UUID("6f1ed1a6-0c0a-4c6f-9d1e-6d0f6d3c8f51")


async def send(
    run: OperationRun, given: Input, step: str, what: str, *, limit: dt.timedelta, **action: Any
) -> guest_pb2.CommandResult:
    """Send one action for `step` and wait for its result.

    Raises StepFailedError (ENGINE_DEADLINE) when the engine was not `what` within `limit`, the
    guest's own error when it failed.
    """
    operation = given.operation
    command = guest_pb2.Command(
        command_id=str(uuid.uuid5(_COMMANDS, f"{operation.id}/{step}")),
        timeout=duration_pb2.Duration(seconds=int(limit.total_seconds())),
        request_id=operation.request_id,
        operation_id=operation.id,
        **action,
    )
    try:
        return await run.services.guests.send_command(operation.instance_id, command)
    except DeadlineError as error:
        raise StepFailedError(
            f"the engine was not {what} within {limit.total_seconds():g} s\n"
            "The agent took the command and did not answer in time; its log says how far it came.",
            reason="ENGINE_DEADLINE",
        ) from error
