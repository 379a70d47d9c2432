"""Rates over REST, and the contract of their port: the fake and a real conductor keep it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt

import pytest

from conductor.config import Rates as Settings
from gateway.rest.ports.rates import GrpcRates, Rates
from tests.fakes.certificates import TestAuthority
from tests.fakes.control_plane import running_conductor
from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_rates import LIFETIME, SLICE, FakeRates
from tests.fakes.rest_server import running_rest
from trove_grpc.errors import UnavailableError
from trove_grpc.gen.conductor.v1 import rate_service_pb2 as pb2
from trove_grpc.identity import Role

LIMIT = 40
MINUTE = dt.timedelta(minutes=1)


class Clock:
    def __init__(self) -> None:
        self.time = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.time


@contextlib.asynccontextmanager
async def fake(_tmp_path, clock):
    yield FakeRates({"GET": LIMIT, "PUT": -1, "DELETE": 0}, now=clock)


@contextlib.asynccontextmanager
async def real(tmp_path, clock):
    settings = Settings(get=LIMIT, put=-1, delete=0, slice=SLICE, lifetime=LIFETIME)
    async with (
        running_conductor(tmp_path, TestAuthority(), rates=settings, now=clock) as running,
        running.channel(Role.API) as channel,
    ):
        yield GrpcRates(channel)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=[fake, real])
async def rates(request, tmp_path, clock):
    async with request.param(tmp_path, clock) as rates:
        yield rates


async def lease(
    rates: Rates, lease_id: str, *ended: pb2.EndedLease, tenant: str = "demo", rate: str = "GET"
) -> pb2.LeaseRateResponse:
    return await rates.lease(
        pb2.LeaseRateRequest(tenant_id=tenant, rate=rate, lease_id=lease_id, ended=ended)
    )


async def remaining(rates: Rates, tenant: str = "demo", rate: str = "GET") -> int:
    (found,) = [item for item in await rates.list_rates(tenant) if item.rate == rate]
    return found.remaining


async def test_slices_add_up_to_the_limit_and_come_back_after_a_minute(rates, clock):
    granted = [(await lease(rates, f"l{number}")).granted for number in range(20)]
    refused = await lease(rates, "refused")
    assert (sum(granted), refused.granted, refused.limit) == (LIMIT, 0, LIMIT)
    assert refused.retry_after.ToTimedelta() == MINUTE + LIFETIME
    assert await remaining(rates) == 0
    clock.time += refused.retry_after.ToTimedelta()
    assert (await lease(rates, "later")).granted == SLICE
    assert await remaining(rates) == LIMIT - SLICE


async def test_repeat_answers_the_same_slice(rates):
    first, second = await lease(rates, "l"), await lease(rates, "l")
    assert first == second
    assert await remaining(rates) == LIMIT - SLICE


async def test_given_back_slice_counts_for_what_was_used(rates):
    await lease(rates, "a")
    await lease(rates, "b", pb2.EndedLease(lease_id="a", used=2))
    assert await remaining(rates) == LIMIT - 2 - SLICE
    await lease(rates, "c", pb2.EndedLease(lease_id="nobody's", used=9))
    assert await remaining(rates) == LIMIT - 2 - 2 * SLICE


async def test_each_tenant_and_each_rate_counts_for_itself(rates):
    for number in range(20):
        await lease(rates, f"l{number}")
    assert (await lease(rates, "l0", tenant="other")).granted == SLICE
    assert (await lease(rates, "l0", rate="POST")).granted == SLICE


async def test_unlimited_and_forbidden_rates_are_told_apart(rates):
    assert (await lease(rates, "l", rate="PUT")).limit == -1
    forbidden = await lease(rates, "l", rate="DELETE")
    assert (forbidden.limit, forbidden.granted) == (0, 0)
    limits = {item.rate: item.limit for item in await rates.list_rates("demo")}
    assert (limits["GET"], limits["PUT"], limits["DELETE"]) == (LIMIT, -1, 0)


async def test_request_over_the_limit_is_refused_in_troves_words():
    control_plane = FakeControlPlane()
    control_plane.rates = FakeRates({"GET": 2})
    async with running_rest(control_plane) as client:
        answers = [await client.send("GET", "/instances") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 413]
        fault = answers[2].json["overLimit"]
        wait = answers[2].headers["Retry-After"]
        assert fault == {
            "code": 413,
            "message": "This request was rate-limited.",
            "details": "Only 2 GET request(s) can be made to * every minute.",
            "retryAfter": wait,
        }
        assert 1 <= int(wait) <= 65
        assert (await client.for_project("other").send("GET", "/instances")).status == 200
        created = await client.send("POST", "/instances", {"instance": {}})
        assert created.status == 400  # another verb, judged by what it says


async def test_two_api_processes_share_a_limit_under_a_storm():
    control_plane = FakeControlPlane()
    control_plane.rates = FakeRates({"GET": 50})
    async with running_rest(control_plane) as one, running_rest(control_plane) as two:
        answers = await asyncio.gather(
            *(client.send("GET", "/flavors") for _ in range(60) for client in (one, two))
        )
        statuses = [answer.status for answer in answers]
        assert (statuses.count(200), statuses.count(413)) == (50, 70)


async def test_limits_show_what_is_left_of_each_rate():
    control_plane = FakeControlPlane()
    control_plane.rates = FakeRates(
        {"GET": 200, "POST": 200, "PUT": 200, "DELETE": -1, "MANAGE": 1}
    )
    async with running_rest(control_plane) as client:
        for _ in range(3):
            await client.send("GET", "/instances")
        await client.send("POST", "/mgmt/instances/x/action", {"stop": {}})
        absolute, *limits = (await client.send("GET", "/limits")).json["limits"]
        assert absolute["verb"] == "ABSOLUTE"
        assert [(item["verb"], item["uri"], item["regex"]) for item in limits] == [
            ("POST", "*", ".*"),
            ("PUT", "*", ".*"),
            ("GET", "*", ".*"),
            ("POST", "*/mgmt", "^/mgmt"),
        ]
        assert [item["remaining"] for item in limits] == [199, 200, 196, 0]
        assert {item["unit"] for item in limits} == {"MINUTE"}
        free = dt.datetime.fromisoformat(limits[3]["nextAvailable"])
        assert free > dt.datetime.now(dt.UTC) + dt.timedelta(seconds=30)


async def test_without_the_conductor_few_requests_reach_what_still_answers():
    control_plane = FakeControlPlane()
    control_plane.rates.failure = UnavailableError("gone")
    async with running_rest(control_plane) as client:
        answers = [await client.send("GET", "/flavors") for _ in range(12)]
        assert [answer.status for answer in answers] == [200] * 10 + [503] * 2
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 5
