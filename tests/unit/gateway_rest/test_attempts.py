"""Addresses that fail to authenticate too often are refused unread, and no others."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.rest import attempts
from gateway.rest.attempts import BoundedAttempts
from gateway.rest.auth import Caller
from trove_grpc.errors import InvalidRequestError, QuotaExceededError, UnauthenticatedError

LIMIT = 3
PROXY = "10.0.0.7"


class Tokens:
    """Knows one token."""

    def __init__(self) -> None:
        self.asked = 0

    def check_listen(self, host: str) -> None:
        raise InvalidRequestError(host)

    async def authenticate(self, request, project_id: str) -> Caller:
        self.asked += 1
        if request.headers.get("X-Auth-Token") != "good":
            raise UnauthenticatedError("The token is not valid.")
        return Caller(project_id=project_id)


class Scene:
    def __init__(self, **settings) -> None:
        self.time = 0.0
        self.tokens = Tokens()
        self.refusal: QuotaExceededError | None = None
        self.attempts = BoundedAttempts(
            self.tokens, **{"limit": LIMIT, "clock": lambda: self.time} | settings
        )

    async def send(self, address: str, *, token: str = "bad", forwarded: str = "") -> str:
        headers = {"X-Auth-Token": token} | ({"X-Forwarded-For": forwarded} if forwarded else {})
        request = make_mocked_request("GET", "/", headers=headers).clone(remote=address)
        try:
            await self.attempts.authenticate(request, "demo")
        except UnauthenticatedError:
            return "401"
        except QuotaExceededError as error:
            self.refusal = error
            return "413"
        return "200"


async def test_address_is_refused_unread_after_its_failures_and_heard_again_a_minute_later():
    scene = Scene()
    assert [await scene.send("192.0.2.1") for _ in range(5)] == ["401"] * 3 + ["413"] * 2
    assert scene.tokens.asked == LIMIT
    assert scene.refusal.reason == "RATE_EXCEEDED"
    assert scene.refusal.retry_after == 60
    scene.time += 60
    assert await scene.send("192.0.2.1") == "401"


async def test_other_addresses_are_not_concerned():
    scene = Scene()
    for _ in range(5):
        await scene.send("192.0.2.1")
    assert await scene.send("192.0.2.2", token="good") == "200"


async def test_successes_do_not_count():
    scene = Scene()
    assert {await scene.send("192.0.2.1", token="good") for _ in range(50)} == {"200"}
    assert await scene.send("192.0.2.1") == "401"


async def test_addresses_of_one_ipv6_customer_share_an_account():
    scene = Scene()
    sent = [await scene.send(f"2001:db8::{number}") for number in range(1, 6)]
    assert sent == ["401"] * 3 + ["413"] * 2
    assert await scene.send("2001:db8:0:1::1") == "401"


async def test_client_cannot_choose_its_address_by_a_header():
    scene = Scene()
    sent = [await scene.send("192.0.2.1", forwarded=f"198.51.100.{n}") for n in range(5)]
    assert sent == ["401"] * 3 + ["413"] * 2


async def test_trusted_proxy_s_word_counts_and_what_the_client_put_before_it_does_not():
    scene = Scene(trusted_proxies=[f"{PROXY}/32", "10.1.0.0/16"])
    sent = [
        await scene.send(PROXY, forwarded=f"203.0.113.{n}, 192.0.2.1, 10.1.2.3") for n in range(5)
    ]
    assert sent == ["401"] * 3 + ["413"] * 2
    assert await scene.send(PROXY, forwarded="192.0.2.2") == "401"
    assert await scene.send(PROXY) == "401"


async def test_unreadable_addresses_share_an_account():
    scene = Scene(trusted_proxies=[PROXY])
    sent = [await scene.send(PROXY, forwarded=f"<{n}>") for n in range(5)]
    assert sent == ["401"] * 3 + ["413"] * 2


async def test_limit_of_zero_is_none():
    scene = Scene(limit=0)
    assert {await scene.send("192.0.2.1") for _ in range(50)} == {"401"}


async def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(attempts, "_MOST_ADDRESSES", 2)
    scene = Scene()
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        for _ in range(3):
            await scene.send(address)
    assert await scene.send("192.0.2.3") == "413"
    assert await scene.send("192.0.2.1") == "401"


def test_proxy_that_is_no_network_is_refused():
    with pytest.raises(InvalidRequestError, match="trusted_proxies"):
        Scene(trusted_proxies=["proxy.example"])


def test_unsafe_listening_is_still_the_authenticators_to_refuse():
    with pytest.raises(InvalidRequestError):
        Scene().attempts.check_listen("0.0.0.0")  # noqa: S104
