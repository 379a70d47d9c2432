"""How often requests of one address may fail to authenticate.

Whoever guesses tokens must not keep Keystone busy. Only failures count, so that the requests of
authenticated callers are never refused for their number here: that is `rates`. Each process counts
by itself, for a stranger must cost the control plane nothing. Failures that are under way at once
are counted when they end, so that a few more than the limit may happen.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from aiohttp import web

from gateway.rest import metrics
from gateway.rest.auth import Authenticator, Caller
from trove_grpc.errors import InvalidRequestError, QuotaExceededError, UnauthenticatedError

_WINDOW_SECONDS = 60.0
# Addresses that are remembered; whose last failure is longest ago goes first.
_MOST_ADDRESSES = 10_000
# What one customer gets of IPv6; single addresses cost him nothing.
_IPV6_PREFIX = 64

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class BoundedAttempts:
    """Authenticates as another does, and not at all for an address that failed too often."""

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        limit: int,
        trusted_proxies: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limit` is failures a minute, 0 for unlimited; proxies are addresses or networks.

        Raises InvalidRequestError for a proxy that is neither.
        """
        self._authenticator = authenticator
        self._limit = limit
        self._proxies = [_network(proxy) for proxy in trusted_proxies]
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    @property
    def challenge(self) -> str:
        return self._authenticator.challenge

    def check_listen(self, host: str) -> None:
        self._authenticator.check_listen(host)

    async def authenticate(self, request: web.Request, project_id: str) -> Caller:
        """The caller; raises QuotaExceededError too, before anybody is asked."""
        address = self._address(request)
        self._check(address)
        try:
            return await self._authenticator.authenticate(request, project_id)
        except UnauthenticatedError:
            self._remember(address)
            raise

    def _check(self, address: str) -> None:
        failures = self._failures.get(address)
        if not self._limit or failures is None:
            return
        while failures and failures[0] + _WINDOW_SECONDS <= self._clock():
            failures.popleft()
        if len(failures) >= self._limit:
            metrics.AUTHENTICATION_REFUSED.inc()
            raise QuotaExceededError(
                f"Only {self._limit} request(s) that fail to authenticate can be made from an "
                "address every minute.",
                reason="RATE_EXCEEDED",
                retry_after=failures[0] + _WINDOW_SECONDS - self._clock(),
            )

    def _remember(self, address: str) -> None:
        if not self._limit:
            return
        failures = self._failures.setdefault(address, deque(maxlen=self._limit))
        failures.append(self._clock())
        self._failures.move_to_end(address)
        if len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)

    def _address(self, request: web.Request) -> str:
        """Who sent it: the peer, or what trusted proxies say of theirs, the nearest first.

        What stands further left in the header was written by the client and proves nothing.
        """
        address = request.remote or ""
        heard = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
        while heard and self._is_proxy(address):
            address = heard.pop().strip() or address
        return _account_of(address)

    def _is_proxy(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)


def _account_of(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"  # all of these share one account
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
    return address


def _network(proxy: str) -> _Network:
    try:
        return ipaddress.ip_network(proxy)
    except ValueError as error:
        raise InvalidRequestError(
            f"trusted_proxies: {proxy!r} is not an IP address or network: {error}"
        ) from error
