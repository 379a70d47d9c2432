"""What gateways and services must hear of at once: read once for all watchers.

What this process writes wakes the reader after its commit; what another issuer on the same
database writes is found within a poll. A watcher is given the newest state only, and pages the
denials it lacks from the database: nothing is queued for anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from pki import shared_metrics
from pki.denials import DenialList
from pki.issuer import answers
from pki.models import Denial
from pki.store import Store, authorities, denials, subjects
from trove_grpc.errors import TroveError, UnavailableError
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as pb
from trove_grpc.process import wait_or_timeout

log = logging.getLogger(__name__)

_PAGE = 1000
# Beyond it (a message's size) gateways know of some only; the issuer refuses them all the same.
_MOST_QUARANTINED = 10_000

Directives = Callable[[Session, dt.datetime], Sequence[pb.RenewalDirective]]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How things stand, by the database."""

    head_sequence: int  # of the denials
    bundle_version: int
    directives: tuple[pb.RenewalDirective, ...] = ()
    quarantined_ids: tuple[str, ...] = ()


class News:
    """Follows the database and wakes those who wait for a change of its state."""

    def __init__(
        self,
        store: Store,
        directives: Directives,
        *,
        poll: float,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self.refused = DenialList(now)  # what this issuer itself refuses
        self._store = store
        self._directives = directives
        self._poll_seconds = poll
        self._now = now
        self._state: State | None = None
        self._problem = "the issuer is still reading its database"
        self._written = asyncio.Event()
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        store.subscribe(self._wake)

    @property
    def state(self) -> State:
        """The state as read last; raises UnavailableError while it cannot be read."""
        if self._state is None:
            raise UnavailableError(self._problem, reason="NO_NEWS", retry_after=1.0)
        return self._state

    async def state_after(self, known: State, seconds: float) -> State:
        """The state once it is another than `known`; after `seconds` whatever it is."""
        changed = self._changed
        if self.state == known:
            await wait_or_timeout(changed, seconds)
        return self.state

    async def refresh(self) -> None:
        """Read the state and the denials that are new; raises UnavailableError."""
        await self._follow_denials()
        now = self._now()
        self._tell(await self._store.run(lambda session: self._read(session, now)))

    async def run(self, stop: asyncio.Event) -> None:
        try:
            while not stop.is_set():
                await self._wait(stop)
                self._written.clear()
                try:
                    await self.refresh()
                except TroveError as error:
                    if self._state is not None:
                        log.warning("cannot read what is new: %s", error)
                    # A sign of life would claim that nothing happened: watchers are let go.
                    self._tell(None, error.message)
        finally:
            self._tell(None, "the issuer is stopping")

    def _wake(self) -> None:
        """From a thread of the store, which may outlive our loop by a moment."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._written.set)

    async def _wait(self, stop: asyncio.Event) -> None:
        """Until something was written here, a poll is due, or `stop`."""
        waits = [asyncio.ensure_future(each.wait()) for each in (self._written, stop)]
        try:
            await asyncio.wait(
                waits, timeout=self._poll_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for each in waits:
                each.cancel()

    async def _follow_denials(self) -> None:
        def next_page(session: Session) -> Sequence[Denial]:
            return denials.after(session, self.refused.sequence, _PAGE)

        while rows := await self._store.run(next_page):
            self.refused.apply(answers.denial(row) for row in rows)
        self.refused.forget_expired()

    def _read(self, session: Session, now: dt.datetime) -> State:
        return State(
            head_sequence=denials.head(session),
            bundle_version=authorities.bundle_version(session),
            directives=tuple(self._directives(session, now)),
            quarantined_ids=tuple(subjects.quarantined(session, _MOST_QUARANTINED)),
        )

    def _tell(self, state: State | None, problem: str = "") -> None:
        self._problem = problem
        if state is not None:
            shared_metrics.BUNDLE_VERSION.labels("issuer").set(state.bundle_version)
        if state != self._state:
            self._state = state
            self._changed.set()
            self._changed = asyncio.Event()
