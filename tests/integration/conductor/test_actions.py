"""Actions on the store: preconditions, quota and status change in one transaction, or nothing."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from conductor.config import Quotas
from conductor.executor import Database
from conductor.models import GuestPresence, OperationReservation
from conductor.store import actions, instances, operations, quotas, requests
from conductor.store.actions import Action
from conductor.store.instances import InstanceRecord
from conductor.store.requests import RequestId
from tests.fakes.records import NOW, an_operation, begin_delete, create, finish
from trove_grpc.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    QuotaExceededError,
)

LARGER = {"volume_size_gib": 5}
MEDIUM = {
    "flavor_id": "3",
    "flavor_name": "db.medium",
    "flavor_ram_mib": 2048,
    "flavor_vcpus": 2,
    "flavor_disk_gib": 0,
}
TINY = MEDIUM | {"flavor_id": "0", "flavor_name": "db.nano", "flavor_ram_mib": 128}


async def active(database: Database, state: str = "HEALTHY", **changes: object) -> str:
    instance_id, operation_id = await create(database, **changes)
    await finish(database, operation_id)
    await observe(database, instance_id, state)
    return instance_id


async def observe(database: Database, instance_id: str, state: str) -> None:
    await database.write(
        lambda session: session.execute(
            sa.update(GuestPresence)
            .where(GuestPresence.instance_id == instance_id)
            .values(engine_state=state)
        )
    )


async def begin(
    database: Database,
    instance_id: str,
    kind: str = actions.RESTART_INSTANCE,
    *,
    tenant_id: str = "demo",
    request_id: str = "",
    any_tenant: bool = False,
    target: dict[str, str | int] | None = None,
    limits: Quotas | None = None,
) -> str:
    return await database.write(
        actions.begin_action,
        Action(
            kind=kind,
            request=RequestId(
                tenant_id=tenant_id,
                id=request_id,
                fingerprint=requests.fingerprint(kind, instance_id, f"{target}"),
            ),
            any_tenant=any_tenant,
            target=target or {},
        ),
        an_operation(kind, instance_id=instance_id),
        quota_defaults=limits or Quotas(),
        now=NOW,
    )


async def shown(database: Database, instance_id: str) -> InstanceRecord:
    return await database.read(instances.get_instance, instance_id=instance_id)


async def held(database: Database) -> dict[str, tuple[int, int]]:
    usages = await database.read(quotas.read_usages, tenant_id="demo", defaults=Quotas())
    return {each.resource: (each.in_use, each.reserved) for each in usages if each.in_use}


async def test_an_action_shows_its_task_and_the_end_of_it(database: Database) -> None:
    instance_id = await active(database)
    operation_id = await begin(database, instance_id)
    record = await shown(database, instance_id)
    assert (record.instance.task, record.instance.last_operation_id) == ("REBOOTING", operation_id)
    await finish(database, operation_id)
    assert (await shown(database, instance_id)).instance.task == "NONE"


@pytest.mark.parametrize("state", ["", "NEW", "PREPARING", "STARTING"])
async def test_an_engine_that_is_not_there_yet_is_busy(database: Database, state: str) -> None:
    instance_id = await active(database, state)
    with pytest.raises(ConflictError) as caught:
        await begin(database, instance_id)
    assert caught.value.reason == "INSTANCE_BUSY"


async def test_a_second_action_is_refused_with_troves_words_and_leaves_nothing(
    database: Database,
) -> None:
    instance_id = await active(database)
    first = await begin(database, instance_id, actions.RESIZE_VOLUME, target=LARGER)
    with pytest.raises(ConflictError) as caught:
        await begin(database, instance_id, request_id="r1")
    assert caught.value.message == (
        f"Instance {instance_id} is not currently available for an action to be performed "
        "(task status was RESIZING)."
    )
    await finish(database, first)
    # The refused request did not use up its id.
    assert await begin(database, instance_id, request_id="r1") != first


async def test_of_actions_at_once_one_begins(database: Database) -> None:
    instance_id = await active(database)
    outcomes = await asyncio.gather(
        *(begin(database, instance_id) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(each, str) for each in outcomes) == 1
    assert sum(isinstance(each, ConflictError) for each in outcomes) == 7


async def test_a_repeat_finds_its_operation_even_when_it_has_ended(database: Database) -> None:
    instance_id = await active(database)
    first = await begin(database, instance_id, request_id="r1")
    assert await begin(database, instance_id, request_id="r1") == first
    await finish(database, first)
    assert await begin(database, instance_id, request_id="r1") == first
    with pytest.raises(ConflictError) as caught:
        await begin(database, instance_id, actions.STOP_INSTANCE, request_id="r1")
    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_another_tenants_instance_is_not_found_but_by_an_administrator(
    database: Database,
) -> None:
    instance_id = await active(database)
    with pytest.raises(NotFoundError):
        await begin(database, instance_id, tenant_id="other")
    operation_id = await begin(database, instance_id, tenant_id="admin", any_tenant=True)
    found = await database.read(operations.get_operation, operation_id=operation_id)
    assert found.operation.tenant_id == "demo"


async def test_a_larger_volume_is_reserved_at_once_and_used_at_the_end(
    database: Database,
) -> None:
    instance_id = await active(database)
    operation_id = await begin(database, instance_id, actions.RESIZE_VOLUME, target=LARGER)
    assert (await held(database))["volumes"] == (2, 3)
    assert (await shown(database, instance_id)).instance.volume_size_gib == 2
    await finish(database, operation_id)
    await finish(database, operation_id)
    assert (await held(database))["volumes"] == (5, 0)
    assert (await shown(database, instance_id)).instance.volume_size_gib == 5
    await finish(database, await begin_delete(database, instance_id))
    assert await held(database) == {}


@pytest.mark.parametrize("size", [1, 2])
async def test_a_volume_only_grows(database: Database, size: int) -> None:
    instance_id = await active(database)
    with pytest.raises(InvalidRequestError) as caught:
        await begin(database, instance_id, actions.RESIZE_VOLUME, target={"volume_size_gib": size})
    assert caught.value.message == (
        "The new volume 'size' must be larger than the current volume size of '2'."
    )


async def test_a_failed_resize_gives_back_its_quota_and_changes_no_size(
    database: Database,
) -> None:
    instance_id = await active(database)
    before = await held(database)
    operation_id = await begin(database, instance_id, actions.RESIZE_FLAVOR, target=MEDIUM)
    assert (await held(database))["ram"] == (512, 1536)
    await finish(database, operation_id, "FAILED", "the engine does not run with it")
    assert await held(database) == before
    record = (await shown(database, instance_id)).instance
    assert (record.task, record.flavor_id, record.flavor_ram_mib) == ("NONE", "1", 512)
    assert record.fault_message == "the engine does not run with it"
    left = await database.read(
        lambda session: session.scalars(sa.select(OperationReservation)).all()
    )
    assert left == []


async def test_a_quota_that_is_full_refuses_growth_and_not_the_instance(
    database: Database,
) -> None:
    instance_id = await active(database)
    with pytest.raises(QuotaExceededError) as caught:
        await begin(
            database,
            instance_id,
            actions.RESIZE_VOLUME,
            target=LARGER,
            limits=Quotas(volumes=4),
        )
    assert "volumes" in caught.value.message
    assert (await shown(database, instance_id)).instance.task == "NONE"
    assert (await held(database))["volumes"] == (2, 0)


async def test_a_smaller_flavor_gives_back_when_it_has_been_taken(database: Database) -> None:
    instance_id = await active(database)
    operation_id = await begin(
        database, instance_id, actions.RESIZE_FLAVOR, target=TINY, limits=Quotas(ram=512)
    )
    assert (await held(database))["ram"] == (512, 0)
    await finish(database, operation_id)
    assert (await held(database))["ram"] == (128, 0)
    record = (await shown(database, instance_id)).instance
    assert (record.flavor_id, record.flavor_name) == ("0", "db.nano")


async def test_the_present_flavor_is_none_to_resize_to(database: Database) -> None:
    instance_id = await active(database)
    with pytest.raises(InvalidRequestError, match="must be different than the current flavor"):
        await begin(
            database, instance_id, actions.RESIZE_FLAVOR, target=MEDIUM | {"flavor_id": "1"}
        )


async def test_a_delete_supersedes_an_action_and_quota_ends_at_nothing(
    database: Database,
) -> None:
    instance_id = await active(database)
    resize = await begin(database, instance_id, actions.RESIZE_VOLUME, target=LARGER)
    delete = await begin_delete(database, instance_id)
    await finish(database, resize)  # it was past its last step when it was cancelled
    record = (await shown(database, instance_id)).instance
    assert (record.task, record.volume_size_gib) == ("DELETING", 2)
    await finish(database, delete)
    assert await held(database) == {}


async def test_a_reset_ends_what_runs_and_lets_the_owner_delete(database: Database) -> None:
    instance_id, building = await create(database)
    with pytest.raises(ConflictError):
        await begin_delete(database, instance_id)
    for _ in range(2):
        await database.write(actions.reset_instance, instance_id=instance_id, now=NOW)
    found = await database.read(operations.get_operation, operation_id=building)
    assert (found.operation.state, (await shown(database, instance_id)).instance.task) == (
        "FAILED",
        "NONE",
    )
    with pytest.raises(ConflictError):
        await finish(database, building)  # its flow hears that it is over
    await finish(database, await begin_delete(database, instance_id))
    assert await held(database) == {}


async def test_a_reset_gives_back_what_a_resize_reserved(database: Database) -> None:
    instance_id = await active(database)
    await begin(database, instance_id, actions.RESIZE_VOLUME, target=LARGER)
    await database.write(actions.reset_instance, instance_id=instance_id, now=NOW)
    assert (await held(database))["volumes"] == (2, 0)
    assert await begin(database, instance_id, actions.RESIZE_VOLUME, target=LARGER)


async def test_a_forced_delete_begins_while_the_instance_is_built(database: Database) -> None:
    instance_id, building = await create(database)
    operation = an_operation("delete_instance", instance_id=instance_id, tenant_id="")
    deleting = await database.write(instances.begin_delete, operation, now=NOW, is_forced=True)
    await finish(database, building, "FAILED", "cancelled")
    assert (await shown(database, instance_id)).instance.task == "DELETING"
    await finish(database, deleting)
    with pytest.raises(NotFoundError):
        await shown(database, instance_id)
    assert await held(database) == {}
