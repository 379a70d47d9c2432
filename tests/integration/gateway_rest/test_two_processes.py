"""Two REST APIs before one conductor: limits and quotas are shared under a concurrent storm."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import conductor.config
from tests.fakes.certificates import TestAuthority
from tests.fakes.control_plane import running_conductor
from tests.fakes.rest_server import Answer, RestClient, running_rest
from tests.integration.gateway_rest.test_control_plane import connected, running_task_manager

RATE = 30
PLACES = 4
NEW = {"instance": {"name": "i1", "flavorRef": "1", "volume": {"size": 1}}}


@pytest.fixture
async def both(tmp_path):
    authority = TestAuthority()
    async with (
        running_conductor(
            tmp_path,
            authority,
            rates=conductor.config.Rates(get=RATE),
            quotas=conductor.config.Quotas(instances=PLACES),
        ) as running,
        running_task_manager(tmp_path / "taskmanager", authority) as (_servicer, address),
        connected(authority, tmp_path / "api-1", running.address, address) as one,
        connected(authority, tmp_path / "api-2", running.address, address) as two,
        running_rest(one) as here,
        running_rest(two) as there,
    ):
        yield here, there


async def storm(
    clients: tuple[RestClient, RestClient], count: int, *request, **options
) -> list[Answer]:
    return await asyncio.gather(
        *(client.send(*request, **options) for _ in range(count) for client in clients)
    )


def statuses(answers: list[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


async def test_rate_is_one_for_both_and_other_projects_have_theirs(both):
    answers = await storm(both, RATE, "GET", "/instances")
    assert statuses(answers) == {200: RATE, 413: RATE}
    assert all("retryAfter" in a.json["overLimit"] for a in answers if a.status == 413)
    others = tuple(client.for_project("other") for client in both)
    assert statuses(await storm(others, RATE // 2, "GET", "/instances")) == {200: RATE}


async def test_quota_is_one_for_both_and_the_limit_shows_it(both):
    answers = await storm(both, 8, "POST", "/instances", NEW)
    assert statuses(answers) == {200: PLACES, 413: 16 - PLACES}
    for client in both:
        shown = (await client.send("GET", "/mgmt/quotas/demo")).json["quotas"]
        (instances,) = [item for item in shown if item["resource"] == "instances"]
        assert instances["in_use"] + instances["reserved"] == PLACES


async def test_one_idempotency_key_at_both_makes_one_instance(both):
    answers = await storm(both, 5, "POST", "/instances", NEW, headers={"X-Idempotency-Key": "k"})
    assert statuses(answers) == {200: 10}
    assert len({answer.json["instance"]["id"] for answer in answers}) == 1


async def test_limits_of_one_process_show_what_the_other_used(both):
    here, there = both
    for _ in range(5):
        await here.send("GET", "/instances")
    limits = (await there.send("GET", "/limits")).json["limits"]
    (reads,) = [item for item in limits if item["verb"] == "GET"]
    # The rest of the slice that the other holds counts as used until it is given back.
    assert RATE - 10 - 1 <= reads["remaining"] <= RATE - 5 - 1
