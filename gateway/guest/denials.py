"""Which identities are refused although their certificates verify, and the feed that says so.

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
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from gateway.guest import metrics
from gateway.guest.registry import Registry
from gateway.guest.session import Ending
from trove_grpc import errors, process
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as issuer_rpc
from trove_grpc.identity import SERVICE_ROLES, Identity, Role

log = logging.getLogger(__name__)

_PAGE_SIZE = 1000
_EVER = dt.datetime.max.replace(tzinfo=dt.UTC)
_ALWAYS = dt.datetime.min.replace(tzinfo=dt.UTC)

Key = tuple[issuer_pb2.DenialKind.ValueType, str]


@dataclass(frozen=True, slots=True)
class _Span:
    starts: dt.datetime
    ends: dt.datetime
    reason: str


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class DenialList:
    """Denials in memory, each until the denied thing has expired by itself."""

    def __init__(self, now: Callable[[], dt.datetime] = _now) -> None:
        self._now = now
        self._spans: dict[Key, _Span] = {}

    def __len__(self) -> int:
        return len(self._spans)

    def add(self, denial: issuer_pb2.Denial) -> None:
        """Learn a denial; of two about one thing the earlier start and the later end count."""
        key = (denial.kind, _normal(denial.kind, denial.value))
        span = _Span(
            denial.effective_time.ToDatetime(dt.UTC)
            if denial.HasField("effective_time")
            else _ALWAYS,
            denial.expire_time.ToDatetime(dt.UTC) if denial.HasField("expire_time") else _EVER,
            denial.reason,
        )
        if (known := self._spans.get(key)) is not None:
            reason = known.reason if known.starts <= span.starts else span.reason
            span = _Span(min(known.starts, span.starts), max(known.ends, span.ends), reason)
        self._spans[key] = span

    def refusal(self, caller: Identity) -> errors.UnauthenticatedError | None:
        """The error for a denied caller; None when nothing speaks against it."""
        now = self._now()
        for key in _keys(caller):
            span = self._spans.get(key)
            if span is not None and span.starts <= now < span.ends:
                what = issuer_pb2.DenialKind.Name(key[0]).removeprefix("DENIAL_KIND_").lower()
                return errors.UnauthenticatedError(
                    f"{caller.uri}: {what} denied: {span.reason or 'no reason given'}",
                    reason="CERTIFICATE_DENIED",
                    subject=caller.uri,
                )
        return None

    def prune(self) -> None:
        now = self._now()
        for key in [key for key, span in self._spans.items() if span.ends <= now]:
            del self._spans[key]

    def starts_between(self, after: dt.datetime, until: dt.datetime) -> bool:
        """Whether a denial known before begins to act in (after, until]."""
        return any(after < span.starts <= until for span in self._spans.values())


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
            for denial in page.denials:
                self._denials.add(denial)
                self._sequence = max(self._sequence, denial.sequence)
                grew = True
            if page.head_sequence < self._sequence:
                # The issuer's database was restored: read it all again, forget nothing.
                log.warning("the issuer's denials went back to %d", page.head_sequence)
                self._sequence = 0
                if page.head_sequence == 0:
                    return grew
            elif not page.denials or page.head_sequence <= self._sequence:
                self._denials.prune()
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


def _keys(caller: Identity) -> list[Key]:
    authority = "service" if caller.role in SERVICE_ROLES else str(caller.role)
    keys: list[Key] = [
        (issuer_pb2.DENIAL_KIND_SERIAL, caller.serial),
        (issuer_pb2.DENIAL_KIND_KEY, caller.key_hash),
        (issuer_pb2.DENIAL_KIND_GENERATION, f"{authority}/{caller.generation}"),
    ]
    if caller.role is Role.GUEST:
        keys.append((issuer_pb2.DENIAL_KIND_INSTANCE, caller.instance_id))
        keys.append((issuer_pb2.DENIAL_KIND_TENANT, caller.tenant_id))
    return keys


def _normal(kind: issuer_pb2.DenialKind.ValueType, value: str) -> str:
    if kind == issuer_pb2.DENIAL_KIND_SERIAL:
        return value.lower().lstrip("0")
    return value.lower() if kind == issuer_pb2.DENIAL_KIND_KEY else value
