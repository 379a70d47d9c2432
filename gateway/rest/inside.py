"""The inside of one instance, for one request: who may look, how it is asked, what is believed."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gateway.rest.accounts import ANYWHERE
from gateway.rest.control_plane import ControlPlane
from gateway.rest.dialects import Dialect, dialect_of
from gateway.rest.fields import MAX_TEXT, is_clean
from gateway.rest.idempotency import read_request_id
from gateway.rest.router import Call
from trove_grpc.errors import ConflictError, TroveError, UnsupportedError
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

# Trove answers nothing about the inside of an instance in other states.
_OPEN_STATES = frozenset({"ACTIVE", "BACKUP", "RESTART_REQUIRED"})


@dataclass(frozen=True, slots=True)
class User:
    """A user as a path names him."""

    name: str
    host: str = ANYWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """An instance whose agent may be asked."""

    instance: resources_pb2.InstanceView
    dialect: Dialect
    control_plane: ControlPlane
    call: Call

    async def ask(self, **action: Any) -> guest_pb2.CommandResult:
        """Send what changes nothing."""
        return await self._send(guest_pb2.Command(command_id=f"api/{uuid.uuid4()}", **action))

    async def change(self, **action: Any) -> None:
        """Send a change; one with the client's key is carried out once, however often it comes."""
        command = guest_pb2.Command(**action)
        command.command_id = f"api/{self._key_of(command)}"
        await self._send(command)

    async def change_anew(self, **action: Any) -> None:
        """Send a change that is carried out again, whatever key its request has."""
        await self._send(guest_pb2.Command(command_id=f"api/{uuid.uuid4()}", **action))

    async def _send(self, command: guest_pb2.Command) -> guest_pb2.CommandResult:
        return await self.control_plane.guests.send(self.instance, command)

    def _key_of(self, command: guest_pb2.Command) -> str:
        # Another change under the same key is another command. Verifiers are salted anew in each
        # repeat, and a hash of a password's own is nothing to leave in logs.
        asked = guest_pb2.Command()
        asked.CopyFrom(command)
        for user in asked.create_users.users:
            user.ClearField("verifier")
        for change in asked.update_users.changes:
            change.ClearField("verifier")
        key, project = read_request_id(self.call.http), self.call.project_id
        told = asked.SerializeToString(deterministic=True)
        content = b"\0".join((project.encode(), key.encode(), told))
        return hashlib.sha256(content).hexdigest()

    def user(self, segment: str) -> User:
        """Who is named by "name" or "name@host"; a name may have an "@" itself."""
        name, at, host = segment.rpartition("@")
        if at and name and host in ("", ANYWHERE):
            return User(name)
        if at and name and self.dialect.has_hosts and not self.dialect.host_problem(host):
            return User(name, host)
        return User(segment)


async def look_inside(control_plane: ControlPlane, call: Call) -> Inside:
    """The instance of the path; raises ConflictError while nobody can look inside it."""
    instance = await control_plane.get_instance(call.project_id, call.segment("id"))
    if instance.status == "BUILD":
        raise ConflictError(f"Instance {instance.id} is not ready.", reason="INSTANCE_NOT_READY")
    if instance.status not in _OPEN_STATES:
        raise ConflictError(
            f"Instance {instance.id} is not currently available for an action to be performed "
            f"(status was {instance.status}).",
            reason="INSTANCE_BUSY",
        )
    dialect = dialect_of(instance.datastore_version.manager)
    if not dialect.has_accounts:
        raise UnsupportedError(
            f"The datastore {instance.datastore_version.datastore_name} has no databases and "
            "users that could be managed here."
        )
    return Inside(instance=instance, dialect=dialect, control_plane=control_plane, call=call)


def believed(names: Iterable[str], *, most: int, least: int = 0) -> list[str]:
    """Names a guest told, fit to be shown; raises TroveError for what nobody asked for."""
    told = list(names)
    are_names = all(0 < len(name) <= MAX_TEXT and is_clean(name) for name in told)
    if not (are_names and least <= len(told) <= most):
        raise TroveError(
            "The guest agent gave an answer that cannot be right; nothing of it is shown.",
            reason="GUEST_ANSWER_INVALID",
        )
    return told
