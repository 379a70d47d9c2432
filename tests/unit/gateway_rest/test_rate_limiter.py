"""What one API process lets through by the slices it was leased."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from gateway.rest import rates
from gateway.rest.rates import RateLimiter
from tests.fakes.rest_rates import LIFETIME, SLICE, FakeRates
from trove_grpc.errors import (
    OverloadedError,
    QuotaExceededError,
    TroveError,
    UnavailableError,
    UnsupportedError,
)


class Time:
    """One clock for the limiter and for the conductor it asks."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.seconds, dt.UTC)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def conductor(time: Time) -> FakeRates:
    return FakeRates({"GET": 40, "POST": 3}, now=time.now)


@pytest.fixture
def limiter(conductor: FakeRates, time: Time) -> RateLimiter:
    return RateLimiter(conductor, clock=time.monotonic)


async def passes(limiter: RateLimiter, count: int, tenant: str = "demo", rate: str = "GET") -> int:
    """How many of so many at once are let through."""
    results = await asyncio.gather(
        *(limiter.admit(tenant, rate) for _ in range(count)), return_exceptions=True
    )
    for result in results:
        assert result is None or isinstance(result, (QuotaExceededError, UnavailableError)), result
    return results.count(None)


async def test_conductor_is_asked_once_for_each_slice(limiter, conductor):
    assert await passes(limiter, SLICE) == SLICE
    assert len(conductor.asked) == 1
    await limiter.admit("demo", "GET")
    assert len(conductor.asked) == 2


async def test_storm_passes_up_to_the_limit_and_no_further(limiter):
    assert await passes(limiter, 500) == 40


async def test_refusal_says_which_limit_and_when_to_come_back(limiter, time):
    await passes(limiter, 40)
    with pytest.raises(QuotaExceededError) as caught:
        await limiter.admit("demo", "GET")
    assert caught.value.reason == "RATE_EXCEEDED"
    assert caught.value.message == "Only 40 GET request(s) can be made to * every minute."
    assert 59 <= caught.value.retry_after <= 65
    time.seconds += caught.value.retry_after
    await limiter.admit("demo", "GET")


async def test_refused_storm_asks_the_conductor_once_a_second(limiter, conductor, time):
    await passes(limiter, 200)
    asked = len(conductor.asked)
    await passes(limiter, 200)
    assert len(conductor.asked) == asked
    time.seconds += 1
    await passes(limiter, 200)
    assert len(conductor.asked) == asked + 1


async def test_one_tenant_s_storm_takes_nothing_from_another(limiter):
    assert await passes(limiter, 500, "noisy") == 40
    assert await passes(limiter, 40, "quiet") == 40


async def test_two_processes_share_one_limit(limiter, conductor, time):
    other = RateLimiter(conductor, clock=time.monotonic)
    shares = await asyncio.gather(passes(limiter, 300), passes(other, 300))
    assert sum(shares) == 40
    assert min(shares) > 0


async def test_what_a_quiet_process_holds_comes_back_to_the_other(limiter, conductor, time):
    """One request each few seconds must not cost a slice each."""
    other = RateLimiter(conductor, clock=time.monotonic)
    for _ in range(18):
        await limiter.admit("demo", "GET")
        await other.admit("demo", "GET")
        time.seconds += LIFETIME.total_seconds() + 1
    assert await passes(other, 500) >= 40 - 2 * 10 - SLICE


async def test_rest_of_a_slice_is_void_when_it_expires(limiter, conductor, time):
    await limiter.admit("demo", "GET")
    time.seconds += LIFETIME.total_seconds()
    assert limiter.held("demo", "GET") == 0
    await limiter.admit("demo", "GET")
    assert [item.used for item in conductor.asked[1].ended] == [1]


async def test_unlimited_rate_asks_only_when_its_answer_is_old(limiter, conductor, time):
    conductor.limits["GET"] = -1
    assert await passes(limiter, 1000) == 1000
    assert len(conductor.asked) == 1
    time.seconds += LIFETIME.total_seconds()
    await limiter.admit("demo", "GET")
    assert len(conductor.asked) == 2


@pytest.mark.parametrize(
    "failure",
    [UnavailableError("gone"), OverloadedError("busy"), UnsupportedError("an older conductor")],
    ids=lambda failure: failure.reason,
)
async def test_without_the_conductor_a_few_pass_and_it_is_left_alone(
    limiter, conductor, time, failure: TroveError
):
    conductor.failure = failure
    assert await passes(limiter, 100) == 10
    with pytest.raises(UnavailableError) as caught:
        await limiter.admit("demo", "GET")
    assert 0 < caught.value.retry_after <= 5
    time.seconds += 5
    assert await passes(limiter, 100) == 10
    assert limiter.held("demo", "GET") == 0


async def test_limits_stand_again_when_the_conductor_is_back(limiter, conductor, time):
    await passes(limiter, 15)
    conductor.failure = UnavailableError("gone")
    time.seconds += LIFETIME.total_seconds()
    await passes(limiter, 100)
    conductor.failure = None
    time.seconds += 5
    assert await passes(limiter, 100) == 40 - 15
    (request,) = [item for item in conductor.asked if len(item.ended) > 1]
    # The slice of before, and the one whose grant was never heard of.
    assert [item.used for item in request.ended] == [5, 0]


async def test_request_that_is_given_up_while_it_asks_does_not_block_the_next(limiter, conductor):
    entered, never = asyncio.Event(), asyncio.Event()
    lease = conductor.lease

    async def hang(_request):
        entered.set()
        await never.wait()

    conductor.lease = hang
    asking = asyncio.create_task(limiter.admit("demo", "GET"))
    await entered.wait()
    conductor.lease = lease
    asking.cancel()
    await limiter.admit("demo", "GET")
    assert asking.cancelled()


async def test_memory_is_bounded_by_forgetting_who_is_quiet_longest(limiter, monkeypatch):
    monkeypatch.setattr(rates, "_MOST_PAIRS", 3)
    for tenant in ("a", "b", "c", "a", "d"):
        await limiter.admit(tenant, "GET")
    assert [limiter.held(tenant, "GET") for tenant in "abcd"] == [8, 0, 9, 9]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/instances", ("GET",)),
        ("GET", "/mgmt/instances", ("GET",)),
        ("PATCH", "/instances/{id}", ("PUT",)),
        ("DELETE", "/instances/{id}", ("DELETE",)),
        ("POST", "/instances", ("POST",)),
        ("POST", "/mgmt/instances/{id}/action", ("MANAGE", "POST")),
    ],
)
def test_request_counts_on_the_rate_of_its_verb(method, path, expected):
    assert rates.rates_of(method, path) == expected


async def test_management_s_post_counts_as_a_post_too(limiter):
    admit = limiter.gate("POST", "/mgmt/instances")
    for _ in range(3):
        await admit("demo")
    with pytest.raises(QuotaExceededError, match="Only 3 POST"):
        await limiter.admit("demo", "POST")
