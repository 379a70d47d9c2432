"""Keystone's Identity API v3 as this service uses it: sign in, and ask about tokens."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import aiohttp
from aiohttp import web

from gateway.rest import metrics
from gateway.rest.auth.credentials import read_sign_in
from gateway.rest.auth.settings import KeystoneSettings
from gateway.rest.auth.tokens import TokenFacts, read_token
from trove_grpc.errors import InvalidRequestError, UnavailableError

log = logging.getLogger(__name__)

# Our token is replaced so long before its end that no request meets the end.
_RENEWAL_MARGIN = dt.timedelta(seconds=60)
# After a refusal the credential is not tried again for so long: Keystone may lock the account.
_REFUSED_SECONDS = 10.0
_RETRY_AFTER_SECONDS = 5.0
# Answers to a validation that mean "no such token"; what is neither these nor 200 is a failure.
_INVALID = frozenset({400, 404})
# Answers to our sign-in that mean "not you"; 404 is for an unknown application credential.
_REFUSED = frozenset({401, 403, 404})


@dataclass(frozen=True, slots=True, kw_only=True)
class _OwnToken:
    """The token of this service; its text is in no representation."""

    text: str
    expires_at: dt.datetime

    def __repr__(self) -> str:
        return f"_OwnToken(expires_at={self.expires_at})"


class IdentityApi:
    """Asks with a token of its own, renewed before it ends and whenever Keystone refuses it."""

    def __init__(
        self,
        settings: KeystoneSettings,
        session: aiohttp.ClientSession,
        *,
        now: Callable[[], dt.datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._session = session
        self._now = now
        self._clock = clock
        self._url = f"{settings.auth_url.rstrip('/')}/auth/tokens"
        self._own: _OwnToken | None = None
        self._signing_in = asyncio.Lock()
        self._refused_until = 0.0

    async def validate(self, token: str, *, allow_expired: bool) -> TokenFacts | None:
        """What Keystone knows of a token; None if it does not accept it.

        Raises UnavailableError when Keystone does not say within the timeout.
        """
        started = time.perf_counter()
        outcome = "unavailable"
        try:
            async with asyncio.timeout(self._settings.timeout.total_seconds()):
                facts = await self._ask(token, allow_expired=allow_expired)
            outcome = "invalid" if facts is None else "valid"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The kind alone: the text of a client's error may quote what was sent.
            _unavailable(f"{type(error).__name__} from {self._settings.auth_url}", error)
        finally:
            metrics.KEYSTONE_SECONDS.labels(outcome).observe(time.perf_counter() - started)
        return facts

    async def _ask(self, token: str, *, allow_expired: bool) -> TokenFacts | None:
        own = await self._own_token()
        status, body = await self._get(own, token, allow_expired=allow_expired)
        if status == web.HTTPUnauthorized.status_code:
            # Revoked, or signed with a key that Keystone has rotated away.
            self._forget(own)
            own = await self._own_token()
            status, body = await self._get(own, token, allow_expired=allow_expired)
        if status in _INVALID:
            return None
        if status == web.HTTPForbidden.status_code:
            _unavailable("it forbids this service to validate tokens: give it the role 'service'")
        if status != web.HTTPOk.status_code:
            _unavailable(f"it answered a validation with {status}")
        try:
            return read_token(body)
        except ValueError as error:
            _unavailable(str(error))

    async def _get(self, own: _OwnToken, token: str, *, allow_expired: bool) -> tuple[int, Any]:
        # Without the catalogue, which is large and not for us.
        parameters = {"nocatalog": "1"} | ({"allow_expired": "1"} if allow_expired else {})
        headers = {"X-Auth-Token": own.text, "X-Subject-Token": token}
        async with self._session.get(self._url, params=parameters, headers=headers) as answer:
            return answer.status, await _json(answer)

    async def _own_token(self) -> _OwnToken:
        async with self._signing_in:
            if self._own is None or self._now() >= self._own.expires_at - _RENEWAL_MARGIN:
                self._own = await self._sign_in()
            return self._own

    def _forget(self, own: _OwnToken) -> None:
        if self._own is own:
            self._own = None

    async def _sign_in(self) -> _OwnToken:
        if self._clock() < self._refused_until:
            _unavailable("it refused this service's credential a moment ago")
        try:
            body = await asyncio.to_thread(read_sign_in, self._settings.credential_file)
        except InvalidRequestError as error:
            _unavailable(error.message, error)
        async with self._session.post(self._url, params={"nocatalog": "1"}, json=body) as answer:
            described = await _json(answer)
            if answer.status in _REFUSED:
                self._refused_until = self._clock() + _REFUSED_SECONDS
                _unavailable(f"it refuses the credential in {self._settings.credential_file}")
            if answer.status != web.HTTPCreated.status_code:
                _unavailable(f"it answered our sign-in with {answer.status}")
            text = answer.headers.get("X-Subject-Token", "")
        try:
            expires_at = read_token(described).expires_at
        except ValueError as error:
            _unavailable(str(error))
        if not text:
            _unavailable("its answer to our sign-in has no X-Subject-Token")
        return _OwnToken(text=text, expires_at=expires_at)


def open_session(settings: KeystoneSettings) -> aiohttp.ClientSession:
    """A session that trusts `ca_file` alone where one is set, and asks no proxy."""
    context = _tls(settings)
    connector = aiohttp.TCPConnector(limit=settings.connections, ssl=context)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        requote_redirect_url=False,
        timeout=aiohttp.ClientTimeout(total=settings.timeout.total_seconds()),
    )


def _tls(settings: KeystoneSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(
            cafile=str(settings.ca_file) if settings.ca_file else None
        )
    except OSError as error:
        raise InvalidRequestError(
            f"keystone.ca_file {settings.ca_file} cannot be used: {error.strerror or error}"
        ) from error


async def _json(answer: aiohttp.ClientResponse) -> Any:
    """The body, or None where it is no JSON, as on pages of a proxy."""
    try:
        return await answer.json(content_type=None)
    except ValueError:
        return None


def _unavailable(why: str, error: BaseException | None = None) -> NoReturn:
    """Tell the log why and the client that it is not its token's fault."""
    log.error("tokens cannot be validated with Keystone: %s", why)
    raise UnavailableError(
        "The identity service cannot say now whether this token is valid; try again.",
        reason="KEYSTONE_UNAVAILABLE",
        retry_after=_RETRY_AFTER_SECONDS,
    ) from error
