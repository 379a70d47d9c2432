"""Quota: concurrent creates cannot outrun it, and what is given back is given back once."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from conductor.config import Quotas
from conductor.executor import Database
from conductor.models import Instance, Operation, Quota, QuotaReservation, QuotaUsage
from conductor.store import quotas
from tests.fakes.records import begin_delete, create, finish
from trove_grpc.errors import ConflictError, NotFoundError, QuotaExceededError


async def usage(database: Database, tenant_id: str = "demo") -> dict[str, tuple[int, int]]:
    """(in use, reserved) by resource; checks that counters equal the shares they sum up."""
    rows = await database.read(quotas.read_usages, tenant_id=tenant_id, defaults=Quotas())
    counted = {row.resource: (row.in_use, row.reserved) for row in rows}
    summed = await database.read(_sum_shares, tenant_id)
    assert {name: pair for name, pair in counted.items() if pair != (0, 0)} == summed
    return counted


def _sum_shares(session: Session, tenant_id: str) -> dict[str, tuple[int, int]]:
    sums: dict[str, tuple[int, int]] = {}
    for share in session.scalars(
        sa.select(QuotaReservation).where(QuotaReservation.tenant_id == tenant_id)
    ):
        in_use, reserved = sums.get(share.resource, (0, 0))
        if share.is_committed:
            in_use += share.amount
        else:
            reserved += share.amount
        sums[share.resource] = in_use, reserved
    return sums


async def test_create_reserves_and_its_end_turns_that_into_usage(database: Database) -> None:
    _, operation = await create(database)
    assert await usage(database) == {
        "backups": (0, 0), "instances": (0, 1), "ram": (0, 512), "volumes": (0, 2),
    }  # fmt: skip
    await finish(database, operation)
    await finish(database, operation)
    assert await usage(database) == {
        "backups": (0, 0), "instances": (1, 0), "ram": (512, 0), "volumes": (2, 0),
    }  # fmt: skip


async def test_concurrent_creates_take_exactly_the_places_there_are(database: Database) -> None:
    limits = Quotas(instances=5)
    results = await asyncio.gather(
        *(create(database, quotas=limits) for _ in range(20)), return_exceptions=True
    )
    made = [result for result in results if isinstance(result, tuple)]
    refused = [result for result in results if isinstance(result, QuotaExceededError)]
    assert (len(made), len(refused)) == (5, 15)
    assert (await usage(database))["instances"] == (0, 5)
    assert await database.read(lambda session: session.scalar(_count(Instance))) == 5


async def test_refused_create_leaves_nothing(database: Database) -> None:
    with pytest.raises(QuotaExceededError) as caught:
        await create(database, quotas=Quotas(instances=0, volumes=1), request_id="r")
    assert caught.value.subject == "instances,volumes"
    assert "volumes: limit 1, held 0, asked 2" in caught.value.message
    for model in (Instance, Operation, QuotaUsage, QuotaReservation):
        assert await database.read(lambda session, m=model: session.scalar(_count(m))) == 0
    await create(database, request_id="r")


async def test_limit_of_minus_one_is_none(database: Database) -> None:
    await create(database, quotas=Quotas(instances=-1, volumes=-1), volume_size_gib=10**6)


async def test_tenant_s_own_limit_stands_above_the_configured_one(database: Database) -> None:
    await database.write(
        lambda session: session.add(Quota(tenant_id="demo", resource="instances", hard_limit=0))
    )
    with pytest.raises(QuotaExceededError):
        await create(database)
    await create(database, tenant_id="other")


async def test_lowered_limit_refuses_only_what_asks_for_more(database: Database) -> None:
    await create(database)
    await create(database, quotas=Quotas(ram=100), flavor_ram_mib=0)


async def test_delete_twice_gives_back_once(database: Database) -> None:
    kept, operation = await create(database)
    await finish(database, operation)
    gone, operation = await create(database)
    await finish(database, operation)
    deleting = await begin_delete(database, gone)
    assert await begin_delete(database, gone) == deleting
    await asyncio.gather(*(finish(database, deleting) for _ in range(5)))
    with pytest.raises(NotFoundError):
        await begin_delete(database, gone)
    assert (await usage(database))["instances"] == (1, 0)
    assert kept != gone


async def test_concurrent_deletes_are_one_operation(database: Database) -> None:
    instance, operation = await create(database)
    await finish(database, operation)
    found = await asyncio.gather(*(begin_delete(database, instance) for _ in range(8)))
    assert len(set(found)) == 1


async def test_failed_create_counts_until_it_is_deleted(database: Database) -> None:
    instance, operation = await create(database)
    await finish(database, operation, "FAILED", "boot_guest: no memory")
    assert (await usage(database))["instances"] == (1, 0)
    await finish(database, await begin_delete(database, instance))
    assert (await usage(database))["instances"] == (0, 0)


async def test_failed_delete_holds_its_share_and_can_be_tried_again(database: Database) -> None:
    instance, operation = await create(database)
    await finish(database, operation)
    first = await begin_delete(database, instance)
    await finish(database, first, "FAILED", "remove_guest: refused")
    assert (await usage(database))["instances"] == (1, 0)
    second = await begin_delete(database, instance)
    assert second != first
    await finish(database, second)
    assert (await usage(database))["instances"] == (0, 0)


async def test_operation_ends_one_way_only(database: Database) -> None:
    _, operation = await create(database)
    await finish(database, operation, "FAILED", "boom")
    with pytest.raises(ConflictError, match="ended as FAILED"):
        await finish(database, operation, "SUCCEEDED")


async def test_instance_that_is_building_cannot_be_deleted(database: Database) -> None:
    instance, _ = await create(database)
    with pytest.raises(ConflictError, match=r"not ready. \(Status is BUILD\)") as caught:
        await begin_delete(database, instance)
    assert caught.value.reason == "INSTANCE_NOT_READY"


def _count(model: type) -> sa.Select[int]:
    return sa.select(sa.func.count()).select_from(model)
