"""Commands to guests while a client waits: with a deadline, and an error that says what is wrong.

What a guest answers is its own word. Of its errors only those named below mean something to us:
no guest can make this API answer "who are you?" or "too much" to its tenant's client.
"""

from __future__ import annotations

import datetime as dt
import logging
import unicodedata
from typing import Protocol

from trove_grpc import context, errors
from trove_grpc.client import PeerChannel
from trove_grpc.gen.conductor.v1 import report_service_pb2, resources_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.guests import Gateways, SessionGuests, lookup_session

log = logging.getLogger(__name__)

# For the way to the gateway and back, and a second one when the session has moved, seconds.
_MARGIN = 12.0
_MAX_MESSAGE = 400

_FROM_GUESTS: dict[str, type[errors.TroveError]] = {
    "DATABASE_EXISTS": errors.InvalidRequestError,
    "DATABASE_NOT_FOUND": errors.NotFoundError,
    "ENGINE_NOT_PREPARED": errors.ConflictError,
    "ENGINE_NOT_RUNNING": errors.ConflictError,
    "INVALID_REQUEST": errors.InvalidRequestError,
    "OVERLOADED": errors.OverloadedError,
    "UNSUPPORTED": errors.UnsupportedError,
    "USER_EXISTS": errors.InvalidRequestError,
    "USER_NOT_FOUND": errors.NotFoundError,
    # Of the gateway.
    "CLONE_SUSPECTED": errors.ConflictError,
    "INSTANCE_NOT_FOUND": errors.NotFoundError,
}


class Guests(Protocol):
    """The agents of instances."""

    async def send(
        self, instance: resources_pb2.InstanceView, command: guest_pb2.Command
    ) -> guest_pb2.CommandResult:
        """Carry out `command`; at most once for one command id.

        Raises UnavailableError (AGENT_AWAY; AGENT_LOST where it may have happened) and
        DeadlineError (AGENT_SILENT) when the agent cannot be reached, TroveError
        (GUEST_ANSWER_INVALID) when it answers nonsense, and InvalidRequestError (GUEST_ERROR),
        as Trove has it, for what its engine refuses.
        """
        ...


class GrpcGuests:
    """Asks the gateway that holds the agent's session."""

    def __init__(
        self, conductor: PeerChannel, gateways: Gateways, *, timeout: dt.timedelta
    ) -> None:
        self._conductor = conductor
        self._sessions = SessionGuests(self._lookup, gateways)
        self._timeout = timeout

    async def send(
        self, instance: resources_pb2.InstanceView, command: guest_pb2.Command
    ) -> guest_pb2.CommandResult:
        command.timeout.FromTimedelta(self._timeout)
        command.request_id = context.request_id()
        try:
            # Longer than other requests may take: an engine's work is not ours to hurry.
            with context.deadline_in(self._timeout.total_seconds() + _MARGIN):
                return await self._sessions.send_command(
                    instance.id, command, tenant_id=instance.tenant_id
                )
        except errors.TroveError as error:
            log.warning("the guest of %s: %s %s", instance.id, error.reason, error.message)
            raise for_clients(error, instance) from error

    async def _lookup(self, instance_id: str) -> report_service_pb2.LookupSessionResponse:
        return await lookup_session(self._conductor, instance_id)


def for_clients(
    error: errors.TroveError, instance: resources_pb2.InstanceView
) -> errors.TroveError:
    """What a failed command means to whoever waits for it."""
    if error.reason in _FROM_GUESTS:
        kind = _FROM_GUESTS[error.reason]
        return kind(_readable(error.message), reason=error.reason, retry_after=error.retry_after)
    if error.reason == "BAD_RESULT":
        return errors.TroveError(
            f"The guest agent of instance {instance.id} gave an answer that cannot be right; "
            "nothing of it is shown. Ask the operator to look at it.",
            reason="GUEST_ANSWER_INVALID",
        )
    if isinstance(error, errors.UnavailableError):
        happened = "" if error.reason == "NO_SESSION" else " What was asked may have happened."
        return errors.UnavailableError(
            f"The guest agent of instance {instance.id} cannot be reached{_since(instance)}; "
            f"its database may serve its clients all the same.{happened} Try again later; if it "
            "stays so, the operator must look at its machine and agent.",
            reason="AGENT_LOST" if happened else "AGENT_AWAY",
            retry_after=error.retry_after,
        )
    if isinstance(error, errors.DeadlineError):
        return errors.DeadlineError(
            f"The guest agent of instance {instance.id} did not answer in time"
            f"{_since(instance)}. What was asked may have happened: look before repeating it.",
            reason="AGENT_SILENT",
        )
    if isinstance(error, (errors.UnauthenticatedError, errors.PermissionDeniedError)):
        # It is this process that was refused: 401 or 403 would blame the client for it.
        return errors.UnavailableError(
            "The control plane refused this API process; an operator must look at it."
        )
    return errors.InvalidRequestError(_readable(error.message), reason="GUEST_ERROR")


def _since(instance: resources_pb2.InstanceView) -> str:
    if not instance.HasField("last_report_time"):
        return "; it has never been heard of"
    heard = instance.last_report_time.ToDatetime(tzinfo=dt.UTC)
    seconds = max(0, int((dt.datetime.now(dt.UTC) - heard).total_seconds()))
    return f"; it was last heard of {seconds} s ago, at {heard:%Y-%m-%dT%H:%M:%S}Z"


def _readable(message: str) -> str:
    """A guest's words without what a terminal would act on."""
    kept = "".join(
        " " if unicodedata.category(character) in ("Cc", "Cs") else character
        for character in message[:_MAX_MESSAGE]
    )
    return kept.strip() or "The guest agent refused and did not say why."
