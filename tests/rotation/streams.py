"""Agents whose every stream is seen: when it opened, with which certificate, how it ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from guestagent import connection
from guestagent.session import Session
from tests.fleet.fleet import FleetAgent
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as session_pb2
from trove_grpc.tls import IdentityDirectory


@dataclass(slots=True)
class Watch:
    """What happened to one agent's streams. Times are the loop's."""

    live: int = 0
    opened: int = 0
    handovers: int = 0
    # Moments without any stream, as (from, until); the last one may be open (until = None).
    gaps: list[tuple[float, float | None]] = field(default_factory=list)
    breaks: list[str] = field(default_factory=list)
    serials: set[str] = field(default_factory=set)
    changes: int = 0


class ObservedSession(Session):
    """Tells its agent from when to when it is live: from Welcome to its end, whoever ends it."""

    is_observed = False
    error = ""

    async def open(self, hello: session_pb2.Hello) -> None:
        await super().open(hello)
        watch = self._agent.watch
        self.is_observed = True
        if watch.gaps and watch.gaps[-1][1] is None:
            watch.gaps[-1] = (watch.gaps[-1][0], asyncio.get_running_loop().time())
        watch.live += 1
        watch.opened += 1

    async def run(self) -> None:
        # Confirmed by now: the certificate in force is the one this stream shows.
        self._agent.watch.serials.add(self._agent.serial)
        try:
            await super().run()
        except asyncio.CancelledError:
            self.error = "cancelled"
            raise
        except Exception as failure:
            self.error = str(failure) or type(failure).__name__
            raise

    async def _read(self) -> None:
        try:
            await super()._read()
        except Exception as failure:
            self.error = str(failure) or type(failure).__name__
            raise
        finally:
            self._note_end()

    async def abandon(self) -> None:
        self._note_end()
        await super().abandon()

    def _note_end(self) -> None:
        if not self.is_observed:
            return
        self.is_observed = False
        watch = self._agent.watch
        watch.live -= 1
        if watch.live == 0:
            watch.gaps.append((asyncio.get_running_loop().time(), None))
        if self.error or self.goodbye != session_pb2.GOODBYE_REASON_HANDOVER:
            reason = session_pb2.GoodbyeReason.Name(self.goodbye)
            watch.breaks.append(self.error or f"ended with {reason}")
        else:
            watch.handovers += 1

    @property
    def _agent(self) -> WatchedAgent:
        agent: WatchedAgent = self._listener  # type: ignore[assignment]
        return agent


class WatchedAgent(FleetAgent):
    """A fleet's agent that keeps the diary of its streams and of what it told."""

    def __init__(self, *arguments: object) -> None:
        self.watch = Watch()
        super().__init__(*arguments)  # type: ignore[arg-type]
        acknowledge = self.outbox.acknowledge

        def count(identifier: str) -> None:
            self.acknowledged.add(identifier)
            acknowledge(identifier)

        self.acknowledged: set[str] = set()
        self.outbox.acknowledge = count  # type: ignore[method-assign]

    def tell_something(self) -> None:
        """A change that must reach the database of record."""
        self.watch.changes += 1
        self._tell_change()

    @property
    def instance_id(self) -> str:
        return self.identity.me.instance_id

    @property
    def heartbeat_seconds(self) -> float:
        return self._heartbeat_seconds

    @property
    def serial(self) -> str:
        directory: IdentityDirectory = self.identity.directory
        return directory.load().facts.serial


def observe_sessions() -> None:
    """From here on, every agent of this process opens observed sessions."""
    connection.Session = ObservedSession  # type: ignore[misc]
