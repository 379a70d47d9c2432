"""Limits set at one conductor bind creates at every other, on each kind of database."""

from __future__ import annotations

import asyncio

import pytest

from conductor.config import Quotas
from conductor.executor import Database
from conductor.store import quotas
from tests.fakes.conductor_client import ConductorClient
from tests.fakes.records import create
from tests.integration.conductor.test_two_conductors import both, url
from trove_grpc.client import call
from trove_grpc.errors import QuotaExceededError
from trove_grpc.gen.conductor.v1 import quota_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import quota_service_pb2_grpc

__all__ = ["both", "url"]


async def set_limits(database: Database, **limits: int) -> dict[str, int]:
    usages = await database.write(
        quotas.set_limits, tenant_id="demo", limits=limits, defaults=Quotas()
    )
    return {usage.resource: usage.limit for usage in usages}


async def test_limit_is_set_again_and_again(database: Database) -> None:
    assert (await set_limits(database, instances=3, ram=-1))["instances"] == 3
    assert (await set_limits(database, instances=3))["instances"] == 3
    assert await set_limits(database, instances=4, volumes=9) == {
        "backups": 50, "instances": 4, "ram": -1, "volumes": 9,
    }  # fmt: skip


async def test_limits_set_at_once_are_one_of_them(database: Database) -> None:
    await asyncio.gather(
        *(set_limits(database, instances=number, volumes=number) for number in range(8))
    )
    (instances, volumes) = [
        usage.limit
        for usage in await database.read(quotas.read_usages, tenant_id="demo", defaults=Quotas())
        if usage.resource in ("instances", "volumes")
    ]
    assert instances == volumes


async def test_limit_below_what_is_used_refuses_creates_until_it_is_raised(
    database: Database,
) -> None:
    await create(database)
    await set_limits(database, instances=0)
    with pytest.raises(QuotaExceededError):
        await create(database)
    await set_limits(database, instances=-1)
    await create(database)


async def test_limit_set_at_one_conductor_binds_a_storm_at_both(
    both: tuple[ConductorClient, ConductorClient],
) -> None:
    here, there = both
    stub = here._api.stub(quota_service_pb2_grpc.QuotaServiceStub)
    await call(
        stub.UpdateQuota,
        pb2.UpdateQuotaRequest(
            tenant_id="demo", limits=[pb2.QuotaLimit(resource="instances", limit=3)]
        ),
        timeout=10,
    )
    results = await asyncio.gather(
        *(client.create() for _ in range(10) for client in both), return_exceptions=True
    )
    made = [result for result in results if isinstance(result, tuple)]
    assert len(made) == 3
    for instance_id, operation_id in made:
        await there.finish(operation_id)
        # Deleted at both at once and ended twice, it gives back its place once.
        (delete, again) = await asyncio.gather(here.delete(instance_id), there.delete(instance_id))
        assert delete == again
        await asyncio.gather(here.finish(delete), there.finish(delete))
    results = await asyncio.gather(
        *(client.create() for _ in range(10) for client in both), return_exceptions=True
    )
    assert len([result for result in results if isinstance(result, tuple)]) == 3
