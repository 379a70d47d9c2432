"""Guests of the REST API in memory: the agent's own command code over fake engines."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from gateway.rest.ports.guests import for_clients
from guestagent.account_commands import AccountCommands
from guestagent.engines import EngineSpec, accounts
from tests.fakes.accounts import FakeAccounts
from tests.fakes.engine import FakeEngine
from trove_grpc.errors import TroveError
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

SPEC = EngineSpec(version="1", listen_addresses=(), port=1, memory_mib=1)


class _Running:
    """What of a watcher the agent's account commands use."""

    def __init__(self) -> None:
        self.engine = FakeEngine()

    def answering(self) -> EngineSpec:
        return SPEC

    @contextlib.asynccontextmanager
    async def holding(self) -> AsyncIterator[EngineSpec]:
        yield SPEC


class FakeGuests:
    """One fake engine for each instance, and every command for the test to look at."""

    def __init__(self) -> None:
        self.sent: list[guest_pb2.Command] = []
        self.failure: TroveError | None = None
        # What a hostile guest answers instead.
        self.answer: Callable[[guest_pb2.Command], guest_pb2.CommandResult] | None = None
        self._guests: dict[str, _Running] = {}
        self._done: set[tuple[str, str]] = set()

    def accounts(self, instance_id: str) -> FakeAccounts:
        return self._guest(instance_id).engine.accounts

    async def send(
        self, instance: resources_pb2.InstanceView, command: guest_pb2.Command
    ) -> guest_pb2.CommandResult:
        self.sent.append(command)
        if self.failure is not None:
            raise for_clients(self.failure, instance) from self.failure
        if self.answer is not None:
            return self.answer(command)
        if command.HasField("ping"):
            result = guest_pb2.CommandResult(command_id=command.command_id)
            result.ping.SetInParent()
            return result
        commands = AccountCommands(self._guest(instance.id))  # type: ignore[arg-type]
        try:
            if command.WhichOneof("action") in accounts.READS:
                return await commands.read(command)
            if (instance.id, command.command_id) not in self._done:
                await commands.change(command, is_repeat=False)
                self._done.add((instance.id, command.command_id))
        except TroveError as error:
            raise for_clients(error, instance) from error
        return guest_pb2.CommandResult(command_id=command.command_id)

    def _guest(self, instance_id: str) -> _Running:
        return self._guests.setdefault(instance_id, _Running())
