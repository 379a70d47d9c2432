"""DispatchService: commands from the task manager and the API down to a guest, its answer back.

Every guest has one bounded table of unanswered commands (commands.py); when it is full the caller
hears OVERLOADED at once. A command whose session ends answers SESSION_MOVED: the caller looks the
session up again and repeats the same command id, which the agent's journal makes harmless.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

from google.protobuf import timestamp_pb2

from gateway.guest import answers
from gateway.guest.commands import DESTRUCTIVE, FROM_API
from gateway.guest.directives import Directives
from gateway.guest.registry import Registry
from gateway.guest.session import Session
from pki.feed import DenialFeed
from trove_grpc import context, errors
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2 as dispatch_pb2
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2_grpc as dispatch_rpc
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.names import Role

log = logging.getLogger(__name__)

_COMMAND_ID = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._:/-]{0,255}\Z")
_FROM_API_ID = "api/"
# For a caller that sets no deadline, seconds.
_DEFAULT_TIMEOUT = 600.0
_PAGE_SIZE, _MAX_PAGE_SIZE = 100, 1000


class DispatchService(dispatch_rpc.DispatchServiceServicer):
    """Finds the guest's session and waits for its answer."""

    def __init__(self, registry: Registry, feed: DenialFeed, directives: Directives) -> None:
        self._registry = registry
        self._feed = feed
        self._directives = directives

    async def SendCommand(
        self, request: dispatch_pb2.SendCommandRequest, context_: Any
    ) -> dispatch_pb2.SendCommandResponse:
        """Send one command and wait for its result."""
        command = _checked(request.command)
        _check_caller(request, command)
        with context.bound(instance=request.instance_id, operation=command.operation_id):
            session = self._registry.current(request.instance_id)
            _check_tenant(request, session)
            return await self._send(request.instance_id, session, command)

    async def _send(
        self, instance_id: str, session: Session, command: guest_pb2.Command
    ) -> dispatch_pb2.SendCommandResponse:
        action = command.WhichOneof("action") or ""
        if action in DESTRUCTIVE:
            self._feed.require_fresh()
            self._refuse_suspected(session)
        if session.hello.capabilities and action not in session.hello.capabilities:
            raise errors.UnsupportedError(
                f"the agent of {instance_id} ({session.hello.agent_version}) does not "
                f"understand {action!r}; upgrade it",
                subject=instance_id,
            )
        timeout = _timeout(command)
        pending = session.submit(command, timeout)
        log.info("command %s %s goes to session %d", action, command.command_id, session.epoch)
        try:
            async with asyncio.timeout(timeout):
                # Shielded: another caller may wait for the same answer.
                result = await asyncio.shield(pending.answer)
        except TimeoutError as error:
            raise errors.DeadlineError(
                f"no answer to {action} from {instance_id} in {timeout:.0f} s; it may "
                "have happened: repeat with the same command id",
                subject=instance_id,
            ) from error
        finally:
            session.commands.release(pending)
        log.info(
            "command %s %s was answered %s",
            action,
            command.command_id,
            result.error_reason or "well",
        )
        return dispatch_pb2.SendCommandResponse(result=result)

    def _refuse_suspected(self, session: Session) -> None:
        """Change nothing of an instance whose key may exist twice, until somebody has looked.

        The issuer says who is in quarantine; until it has heard of a suspicion of ours, we know.
        """
        is_suspected = asyncio.get_running_loop().time() < session.suspected_until
        if is_suspected or self._directives.is_quarantined(session.instance_id):
            raise errors.ConflictError(
                f"{session.instance_id} is in quarantine: its key may exist twice; commands that "
                f"change it wait for `trove-pki agents resolve-clone {session.instance_id}`",
                reason="CLONE_SUSPECTED",
                subject=session.instance_id,
            )

    async def ListSessions(
        self, request: dispatch_pb2.ListSessionsRequest, context_: Any
    ) -> dispatch_pb2.ListSessionsResponse:
        """One page of the live sessions, by instance id and epoch."""
        size = min(request.page_size or _PAGE_SIZE, _MAX_PAGE_SIZE)
        if size < 1:
            raise errors.InvalidRequestError("page_size is negative")
        after = request.page_token
        sessions = sorted(
            ((_token(session), session) for session in self._registry),
            key=lambda pair: pair[0],
        )
        page = [(token, session) for token, session in sessions if token > after][: size + 1]
        response = dispatch_pb2.ListSessionsResponse(
            sessions=[_describe(session) for _, session in page[:size]]
        )
        if len(page) > size:
            response.next_page_token = page[size - 1][0]
        return response


def _checked(command: guest_pb2.Command) -> guest_pb2.Command:
    if not _COMMAND_ID.match(command.command_id):
        raise errors.InvalidRequestError(
            "command_id is 1 to 256 letters, digits, '.', '_', ':', '/' or '-'"
        )
    action = command.WhichOneof("action")
    if action is None:
        raise errors.InvalidRequestError("the command names no action")
    if action in ("list_databases", "list_users"):
        page_size = getattr(command, action).page_size
        if not 0 < page_size <= answers.MAX_PAGE:
            raise errors.InvalidRequestError(f"page_size is 1 to {answers.MAX_PAGE}")
    if not command.request_id:
        command.request_id = context.request_id()
    return command


def _check_caller(request: dispatch_pb2.SendCommandRequest, command: guest_pb2.Command) -> None:
    """Who took over the API process must not get further than its tenants' own requests do."""
    caller = context.caller()
    action = command.WhichOneof("action") or ""
    if caller.role is not Role.API:
        return
    if action not in FROM_API:
        raise errors.PermissionDeniedError(
            f"{caller.uri} may not send {action}; ask for an operation instead",
            reason="ACTION_NOT_ALLOWED",
            subject=request.instance_id,
        )
    if not request.tenant_id:
        raise errors.InvalidRequestError("tenant_id says whose instance is meant; it is missing")
    # Else it could answer for a step of the task manager before that one is sent.
    if not command.command_id.startswith(_FROM_API_ID):
        raise errors.InvalidRequestError(f"command ids of the API begin with {_FROM_API_ID!r}")


def _check_tenant(request: dispatch_pb2.SendCommandRequest, session: Session) -> None:
    """The certificate says whose guest it is: a caller that errs must not reach another's."""
    if request.tenant_id and request.tenant_id != session.caller.tenant_id:
        raise errors.NotFoundError(
            f"tenant {request.tenant_id} has no instance {request.instance_id}",
            reason="INSTANCE_NOT_FOUND",
            subject=request.instance_id,
        )


def _timeout(command: guest_pb2.Command) -> float:
    """The shorter of the command's own and the call's time, seconds."""
    left = context.time_left()
    timeout = _DEFAULT_TIMEOUT if left is None else left
    if command.HasField("timeout"):
        timeout = min(timeout, command.timeout.ToTimedelta().total_seconds())
    if timeout <= 0:
        raise errors.DeadlineError("no time left for the command")
    return timeout


def _token(session: Session) -> str:
    return f"{session.instance_id}/{session.epoch:020d}"


def _describe(session: Session) -> dispatch_pb2.Session:
    opened, expires = timestamp_pb2.Timestamp(), timestamp_pb2.Timestamp()
    opened.FromDatetime(session.open_time)
    if session.caller.not_valid_after is not None:
        expires.FromDatetime(session.caller.not_valid_after)
    return dispatch_pb2.Session(
        instance_id=session.instance_id,
        tenant_id=session.caller.tenant_id,
        session_epoch=session.epoch,
        certificate_serial=session.serial,
        open_time=opened,
        certificate_expire_time=expires,
        agent_version=session.hello.agent_version,
        queued_commands=len(session.commands),
    )
