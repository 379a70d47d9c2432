"""Protection from deletion and expected versions, in the database of record."""

from __future__ import annotations

import asyncio

import pytest

from conductor.executor import Database
from conductor.models import Operation
from conductor.store import instances, settlement
from conductor.store.instances import InstanceRecord
from tests.fakes.records import NOW, an_operation, begin_delete, create, finish
from trove_grpc.errors import ConflictError, NotFoundError, StaleError


async def update(database: Database, instance_id: str, **changes) -> InstanceRecord:
    return await database.write(
        instances.update_instance, tenant_id="demo", instance_id=instance_id, now=NOW, **changes
    )


async def active(database: Database, **changes) -> str:
    instance_id, operation_id = await create(database, **changes)
    await finish(database, operation_id)
    return instance_id


async def test_protection_set_at_creation_stands_until_it_is_lifted(database: Database) -> None:
    instance_id = await active(database, deletion_protection=True)
    with pytest.raises(ConflictError) as caught:
        await begin_delete(database, instance_id)
    assert caught.value.reason == "DELETION_PROTECTED"
    record = await database.read(instances.get_instance, instance_id=instance_id)
    assert (record.instance.task, record.instance.deletion_protection) == ("NONE", True)
    await update(database, instance_id, deletion_protection=False)
    await finish(database, await begin_delete(database, instance_id))
    with pytest.raises(NotFoundError):
        await database.read(instances.get_instance, instance_id=instance_id)


async def test_protection_is_set_and_lifted_by_its_tenant_alone(database: Database) -> None:
    instance_id = await active(database)
    with pytest.raises(NotFoundError):
        await database.write(
            instances.update_instance,
            tenant_id="other",
            instance_id=instance_id,
            deletion_protection=True,
            now=NOW,
        )
    protected = await update(database, instance_id, deletion_protection=True)
    assert (protected.instance.name, protected.instance.generation) == ("db", 1)


async def test_what_is_being_deleted_cannot_be_protected_any_more(database: Database) -> None:
    instance_id = await active(database)
    await begin_delete(database, instance_id)
    with pytest.raises(ConflictError, match="too late"):
        await update(database, instance_id, deletion_protection=True)
    assert (await update(database, instance_id, name="n")).instance.name == "n"


async def test_protection_and_delete_that_race_never_both_succeed(database: Database) -> None:
    for _ in range(5):
        instance_id = await active(database, quotas=None)
        results = await asyncio.gather(
            update(database, instance_id, deletion_protection=True),
            begin_delete(database, instance_id),
            return_exceptions=True,
        )
        refused = [result for result in results if isinstance(result, ConflictError)]
        assert len(refused) == 1, results
        record = await database.read(instances.get_instance, instance_id=instance_id)
        assert record.instance.deletion_protection == (record.instance.task != "DELETING")
        await update(database, instance_id, deletion_protection=False)
        await finish(database, await begin_delete(database, instance_id))


async def test_of_changes_that_expect_one_version_one_succeeds(database: Database) -> None:
    instance_id = await active(database)
    record = await database.read(instances.get_instance, instance_id=instance_id)
    seen = record.instance.row_version
    results = await asyncio.gather(
        *(
            update(database, instance_id, name=f"n{number}", expected_row_versions=[seen])
            for number in range(6)
        ),
        return_exceptions=True,
    )
    assert len([result for result in results if isinstance(result, StaleError)]) == 5
    operation: Operation = an_operation(settlement.DELETE_INSTANCE, instance_id=instance_id)
    with pytest.raises(StaleError):
        await database.write(
            instances.begin_delete, operation, expected_row_versions=[seen], now=NOW
        )


async def delete(database: Database, instance_id: str, request_id: str) -> str:
    return await database.write(
        instances.begin_delete,
        an_operation(settlement.DELETE_INSTANCE, instance_id=instance_id),
        request_id=request_id,
        now=NOW,
    )


async def test_repeat_of_a_delete_finds_it_after_it_has_ended(database: Database) -> None:
    instance_id = await active(database)
    begun = await asyncio.gather(*(delete(database, instance_id, "r1") for _ in range(4)))
    assert len(set(begun)) == 1
    await finish(database, begun[0])
    assert await delete(database, instance_id, "r1") == begun[0]
    with pytest.raises(NotFoundError):
        await delete(database, instance_id, "r2")


async def test_one_key_cannot_stand_for_two_wishes(database: Database) -> None:
    made, _ = await create(database, request_id="r1")
    with pytest.raises(ConflictError) as caught:
        await delete(database, made, "r1")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    one, other = await active(database), await active(database)
    results = await asyncio.gather(
        delete(database, one, "r2"), delete(database, other, "r2"), return_exceptions=True
    )
    (refused,) = [result for result in results if isinstance(result, ConflictError)]
    assert refused.reason == "REQUEST_ID_REUSED"
    operations_left = [result for result in results if isinstance(result, str)]
    assert len(operations_left) == 1


async def test_refused_delete_leaves_its_key_free(database: Database) -> None:
    instance_id = await active(database, deletion_protection=True)
    with pytest.raises(ConflictError):
        await delete(database, instance_id, "r1")
    await update(database, instance_id, deletion_protection=False)
    assert await delete(database, instance_id, "r1")
