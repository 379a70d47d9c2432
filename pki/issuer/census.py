"""Counts the fleet now and then, for metrics: agents by state, who is late, what ends first.

The states are those of `trove-pki agents list`, read page by page so that no signature waits for
a count of a large fleet.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections import Counter
from collections.abc import Callable

from sqlalchemy.orm import Session

from pki import metrics
from pki.issuer.config import Config
from pki.store import Store, agents, census
from trove_grpc.errors import TroveError
from trove_grpc.process import wait_or_timeout

log = logging.getLogger(__name__)

_PAGE = 500
_SKEW = dt.timedelta(minutes=5)


class Census:
    """The issuer's own look at what it certified."""

    def __init__(
        self,
        store: Store,
        config: Config,
        *,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._store = store
        self._config = config
        self._now = now

    async def run(self, stop: asyncio.Event) -> None:
        while True:
            try:
                await self.take()
            except TroveError as error:
                log.warning("the fleet was not counted, will be tried again: %s", error)
            if await wait_or_timeout(stop, self._config.census_interval.total_seconds()):
                return

    async def take(self) -> None:
        """Count everything once and show it. Raises UnavailableError without the database."""
        await self._store.run(self._count_in_the_database)
        found = await self._count_agents()
        for state in agents.State:
            if state is not agents.State.RETIRED:  # history, which only grows
                metrics.AGENTS.labels(state).set(found[state])

    def _count_in_the_database(self, session: Session) -> None:
        now = self._now()
        half = now - self._config.service_lifetime / 2
        metrics.SERVICES_OVERDUE.set(census.services_issued_before(session, half, now))
        metrics.AGENTS_SKEWED.set(census.skewed_agents(session, _SKEW))
        metrics.AGENTS_BEHIND.set(census.agents_behind(session))
        metrics.TOKENS_OPEN.set(census.open_tokens(session, now))
        metrics.SOONEST_EXPIRY.clear()
        for authority, end in census.soonest_expiry(session, now).items():
            metrics.SOONEST_EXPIRY.labels(authority).set(end.timestamp())

    async def _count_agents(self) -> Counter[agents.State]:
        found: Counter[agents.State] = Counter()
        after = ""
        while True:
            page = await self._store.run(
                lambda session, after=after: agents.page(  # type: ignore[misc]
                    session,
                    after=after,
                    size=_PAGE,
                    tenant_id="",
                    is_online=None,
                    is_retired=False,
                    now=self._now(),
                    grace=self._config.recovery_grace,
                )
            )
            found.update(agent.state for agent in page)
            if len(page) < _PAGE:
                return found
            after = page[-1].subject.instance_id
