"""The feed of denials: which identities are refused although their certificates verify.

The issuer numbers denials under a lock, so polling "what came after N" misses none. Lost touch
with the feed fails closed where it matters: older than `stale`, no enrolment, no renewal, no
destructive command; without any feed since the start, no new stream either. Open streams stay,
and so do new ones against the last known list: an issuer that is down must not take the fleet
down with it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from typing import NoReturn

from gateway.guest import metrics
from gateway.guest.registry import Registry
from gateway.guest.session import Ending
from pki.denials import DenialList
from trove_grpc import errors, process
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as issuer_rpc

log = logging.getLogger(__name__)

_PAGE_SIZE = 1000


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class DenialFeed:
    """Polls the issuer and ends the sessions of those it denies."""

    def __init__(
        self,
        issuer: PeerChannel,
        denials: DenialList,
        registry: Registry,
        *,
        poll: float,
        stale: float,
        timeout: float,
    ) -> None:
        self._issuer = issuer
        self._denials = denials
        self._registry = registry
        self._poll_seconds = poll
        self._stale_seconds = stale
        self._timeout = timeout
        self._sequence = 0
        self._swept_at = _now()
        self._polled_at: float | None = None
        self._is_failing = False

    @property
    def age(self) -> float:
        """Seconds since the last good poll; infinite before the first."""
        if self._polled_at is None:
            return float("inf")
        return asyncio.get_running_loop().time() - self._polled_at

    def require_fresh(self) -> None:
        """Refuse what a denied guest must not get while the list may be out of date."""
        if self.age > self._stale_seconds:
            self._refuse(f"the list of denials is older than {self._stale_seconds:g} s")

    def require_loaded(self) -> None:
        """Refuse everybody before the list was read once."""
        if self._polled_at is None:
            self._refuse("the list of denials has not been read yet")

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.poll_once()
            await process.wait_or_timeout(stop, self._poll_seconds)

    async def poll_once(self) -> None:
        """Read what is new, then end the sessions it is about."""
        grew = False
        try:
            grew = await self._read()
            self._polled_at = asyncio.get_running_loop().time()
            self._is_failing = False
        except errors.TroveError as error:
            if not self._is_failing:
                log.warning("cannot read denials from the issuer: %s", error.message)
            self._is_failing = True
        now = _now()
        if grew or self._denials.starts_between(self._swept_at, now):
            self._sweep()
        self._swept_at = now
        metrics.DENIALS_AGE.set(self.age)

    async def _read(self) -> bool:
        grew = False
        while True:
            stub = self._issuer.stub(issuer_rpc.IssuerServiceStub)
            page: issuer_pb2.ListDenialsResponse = await call(
                stub.ListDenials,
                issuer_pb2.ListDenialsRequest(after_sequence=self._sequence, page_size=_PAGE_SIZE),
                timeout=self._timeout,
                retry=True,
            )
            self._denials.apply(page.denials)
            for denial in page.denials:
                self._sequence = max(self._sequence, denial.sequence)
                grew = True
            if page.head_sequence < self._sequence:
                # The issuer's database was restored: read it all again, forget nothing.
                log.warning("the issuer's denials went back to %d", page.head_sequence)
                self._sequence = 0
                if page.head_sequence == 0:
                    return grew
            elif not page.denials or page.head_sequence <= self._sequence:
                self._denials.forget_expired()
                return grew

    def _sweep(self) -> None:
        for session in self._registry:
            if refusal := self._denials.refusal(session.caller):
                log.warning("ending a session: %s", refusal.message)
                session.end(Ending(refusal))

    @staticmethod
    def _refuse(why: str) -> NoReturn:
        raise errors.UnavailableError(
            f"{why}; is the issuer up?", reason="DENIALS_STALE", retry_after=5.0
        )
