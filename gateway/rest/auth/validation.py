"""Validation of tokens: remembered for a time, and asked for once however many wait."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import time
from collections.abc import Callable
from typing import Protocol

from gateway.rest import metrics
from gateway.rest.auth.settings import KeystoneSettings
from gateway.rest.auth.token_cache import Digests, Key, TokenCache
from gateway.rest.auth.tokens import TokenFacts
from trove_grpc.errors import TroveError, UnauthenticatedError

# Visible ASCII; Keystone's own are some hundred characters, signed ones up to a few thousand.
_TOKEN = re.compile(r"[\x21-\x7e]{1,8000}", re.ASCII)

_Outcome = TokenFacts | TroveError
# What the first who asks leaves for those who wait: None when he was cancelled.
_Flight = asyncio.Future[_Outcome | None]


class Tokens(Protocol):
    """Keystone, as far as tokens are asked about."""

    async def validate(self, token: str, *, allow_expired: bool) -> TokenFacts | None: ...


class TokenValidator:
    """Believes Keystone for a bounded time; a token's own end counts even within it."""

    def __init__(
        self,
        tokens: Tokens,
        settings: KeystoneSettings,
        *,
        now: Callable[[], dt.datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self._now = now
        self._clock = clock
        self._digests = Digests()
        # Apart, so that a flood of bad tokens pushes out no good one.
        self._good: TokenCache[TokenFacts] = TokenCache(
            size=settings.cache_size, seconds=settings.cache.total_seconds(), clock=clock
        )
        self._bad: TokenCache[TroveError] = TokenCache(
            size=settings.cache_size, seconds=settings.negative_cache.total_seconds(), clock=clock
        )
        self._flights: dict[Key, _Flight] = {}

    async def validate(self, token: str, *, allow_expired: bool = False) -> TokenFacts:
        """The token's facts; raises UnauthenticatedError, or UnavailableError without Keystone.

        `allow_expired` is for what a service goes on with on behalf of a user.
        """
        if not _TOKEN.fullmatch(token):
            raise refused()
        key = (self._digests.of(token), allow_expired)
        facts = await self._find(key, token)
        if not allow_expired and facts.expires_at <= self._now():
            raise refused()
        return facts

    async def _find(self, key: Key, token: str) -> TokenFacts:
        outcome: _Outcome | None = self._good.get(key) or self._bad.get(key)
        metrics.TOKEN_LOOKUPS.labels("remembered" if outcome else "asked").inc()
        while outcome is None:
            if (flight := self._flights.get(key)) is not None:
                outcome = await asyncio.shield(flight)
            else:
                outcome = await self._lead(key, token)
        if isinstance(outcome, TroveError):
            # A new one each time: one exception raised for many would gather their tracebacks.
            raise type(outcome)(
                outcome.message, reason=outcome.reason, retry_after=outcome.retry_after
            )
        return outcome

    async def _lead(self, key: Key, token: str) -> _Outcome:
        flight: _Flight = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        outcome: _Outcome | None = None
        try:
            outcome = await self._ask(key, token)
        finally:
            del self._flights[key]
            flight.set_result(outcome)
        return outcome

    async def _ask(self, key: Key, token: str) -> _Outcome:
        _, allow_expired = key
        asked_at = self._clock()
        try:
            facts = await self._tokens.validate(token, allow_expired=allow_expired)
        except TroveError as error:
            return error
        if facts is None:
            refusal = refused()
            self._bad.put(key, refusal, asked_at=asked_at)
            return refusal
        self._good.put(key, facts, asked_at=asked_at)
        return facts


def refused() -> UnauthenticatedError:
    """The same for every token that does not count: why is not a stranger's to know."""
    return UnauthenticatedError("The request you have made requires authentication.")
