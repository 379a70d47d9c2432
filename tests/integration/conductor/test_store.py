"""Creates that repeat, pages, operations and datastores."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from conductor import schema
from conductor.config import Datastore, Version
from conductor.executor import Database
from conductor.models import Base
from conductor.store import datastores, instances, operations
from tests.fakes.records import NOW, begin_delete, create, finish
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError, OverloadedError


async def test_migrations_make_exactly_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


async def test_migrating_again_changes_nothing(database: Database) -> None:
    schema.upgrade(database)


async def test_conductors_that_start_at_once_migrate_once(database_url: str) -> None:
    with Database(database_url) as one, Database(database_url) as two:
        await asyncio.gather(
            asyncio.to_thread(schema.upgrade, one), asyncio.to_thread(schema.upgrade, two)
        )


async def test_repeated_create_finds_the_same_instance(database: Database) -> None:
    first = await create(database, request_id="r1")
    assert await create(database, request_id="r1") == first
    await finish(database, first[1])
    assert await create(database, request_id="r1") == first


async def test_concurrent_repeats_of_a_create_make_one_instance(database: Database) -> None:
    results = await asyncio.gather(*(create(database, request_id="r1") for _ in range(8)))
    assert len(set(results)) == 1


async def test_same_request_id_of_another_tenant_is_another_create(database: Database) -> None:
    assert await create(database, request_id="r1") != await create(
        database, request_id="r1", tenant_id="other"
    )


async def test_request_ids_are_compared_to_the_letter(database: Database) -> None:
    made = [await create(database, request_id=name) for name in ("a", "A", "á", "a ")]
    assert len(set(made)) == 4


async def test_times_keep_their_microseconds(database: Database) -> None:
    moment = NOW + dt.timedelta(microseconds=123_456)
    instance, _ = await create(database, now=moment)
    record = await database.read(instances.get_instance, instance_id=instance)
    assert record.instance.create_time == moment


async def test_request_id_used_for_something_else_is_refused(database: Database) -> None:
    await create(database, request_id="r1")
    with pytest.raises(ConflictError) as caught:
        await create(database, request_id="r1", fingerprint="other")
    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_request_id_of_a_deleted_instance_is_refused(database: Database) -> None:
    instance, operation = await create(database, request_id="r1")
    await finish(database, operation)
    await finish(database, await begin_delete(database, instance))
    with pytest.raises(ConflictError) as caught:
        await create(database, request_id="r1")
    assert caught.value.reason == "INSTANCE_RETIRED"


async def test_creates_without_a_request_id_are_never_repeats(database: Database) -> None:
    assert await create(database) != await create(database)


async def test_pages_of_instances_show_each_once_in_order_of_id(database: Database) -> None:
    made = sorted([(await create(database))[0] for _ in range(7)])
    await create(database, tenant_id="other")
    seen: list[str] = []
    while page := await database.read(
        instances.list_instances, tenant_id="demo", after=seen[-1] if seen else "", limit=3
    ):
        seen += [record.instance.id for record in page]
    assert seen == made
    everyone = await database.read(instances.list_instances, tenant_id="", after="", limit=50)
    assert len(everyone) == 8


@pytest.mark.parametrize("after", ["zzz", "~", "ffffffff-ffff-ffff-ffff-ffffffffffff"])
async def test_page_after_an_unknown_place_is_empty(database: Database, after: str) -> None:
    await create(database)
    assert (
        await database.read(instances.list_instances, tenant_id="demo", after=after, limit=3) == []
    )


async def test_deleted_instance_leaves_lists_and_its_members_go(database: Database) -> None:
    instance, operation = await create(database)
    record = await database.read(instances.get_instance, instance_id=instance)
    assert [member.role for member in record.members] == ["primary"]
    await finish(database, operation)
    await finish(database, await begin_delete(database, instance))
    assert await database.read(instances.list_instances, tenant_id="", after="", limit=5) == []
    gone = await database.read(instances.get_instance, instance_id=instance, include_deleted=True)
    assert gone.members == []


async def test_another_tenant_s_instance_does_not_exist(database: Database) -> None:
    instance, operation = await create(database)
    await finish(database, operation)
    for call in (
        database.read(instances.get_instance, instance_id=instance, tenant_id="other"),
        database.write(
            instances.update_instance,
            tenant_id="other",
            instance_id=instance,
            name="mine",
            now=NOW,
        ),
        begin_delete(database, instance, "other"),
        database.read(operations.get_operation, operation_id=operation, tenant_id="other"),
    ):
        with pytest.raises(NotFoundError):
            await call


async def test_rename_does_not_count_as_a_change_of_the_spec(database: Database) -> None:
    instance, _ = await create(database)
    record = await database.write(
        instances.update_instance, tenant_id="demo", instance_id=instance, name="né", now=NOW
    )
    assert (record.instance.name, record.instance.generation) == ("né", 1)
    assert record.instance.row_version > 1


async def test_failed_create_shows_trove_s_task_for_the_step_that_failed(
    database: Database,
) -> None:
    instance, operation = await create(database)
    for name, state in (("boot_guest", "SUCCEEDED"), ("await_agent", "FAILED")):
        await database.write(
            operations.record_step,
            operation_id=operation,
            name=name,
            state=state,
            detail="",
            now=NOW,
        )
    await finish(database, operation, "FAILED", "await_agent: the guest never called home")
    record = await database.read(instances.get_instance, instance_id=instance)
    assert record.instance.task == "BUILDING_ERROR_TIMEOUT_GA"
    assert record.instance.fault_message == "await_agent: the guest never called home"


async def test_steps_keep_their_first_order_and_times(database: Database) -> None:
    _, operation = await create(database)

    async def step(name: str, state: str, second: int) -> None:
        await database.write(
            operations.record_step,
            operation_id=operation,
            name=name,
            state=state,
            detail="",
            now=NOW + dt.timedelta(seconds=second),
        )

    await step("a", "RUNNING", 1)
    await step("a", "SUCCEEDED", 2)
    await step("b", "RUNNING", 3)
    await step("a", "SUCCEEDED", 9)  # a replay
    await step("b", "FAILED", 4)
    await finish(database, operation, "FAILED", "b failed")
    await step("a", "UNDONE", 5)  # undone, and told after the end
    record = await database.read(operations.get_operation, operation_id=operation)
    assert [(item.name, item.state) for item in record.steps] == [("a", "UNDONE"), ("b", "FAILED")]
    assert record.steps[0].start_time == NOW + dt.timedelta(seconds=1)
    assert record.steps[1].end_time == NOW + dt.timedelta(seconds=4)
    assert record.operation.state == "FAILED"


async def test_pages_of_operations_run_through_equal_times(database: Database) -> None:
    made = {(await create(database))[1] for _ in range(7)}
    for listing in ("open", "newest"):
        seen: list[str] = []
        after = None
        while True:
            if listing == "open":
                page = await database.read(operations.list_open, after=after, limit=3)
            else:
                page = await database.read(
                    operations.list_operations,
                    tenant_id="demo",
                    instance_id="",
                    after=after,
                    limit=3,
                )
            seen += [record.operation.id for record in page[:2]]
            token = operations.next_place(page, 2)
            if not token:
                break
            after = operations.Place.parse(token)
        assert len(seen) == 7
        assert set(seen) == made


async def test_ended_operations_are_not_open(database: Database) -> None:
    _, first = await create(database)
    _, second = await create(database, now=NOW + dt.timedelta(seconds=1))
    await finish(database, first)
    page = await database.read(operations.list_open, after=None, limit=10)
    assert [record.operation.id for record in page] == [second]


async def test_page_token_that_no_page_gave_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        operations.Place.parse("nonsense")


async def test_secrets_of_an_ended_operation_are_gone(database: Database) -> None:
    _, operation = await create(database)
    assert await database.read(operations.sealed_secrets, operation) == b"sealed"
    await finish(database, operation, "STUCK", "flow engine")
    with pytest.raises(ConflictError):
        await database.read(operations.sealed_secrets, operation)


async def test_datastores_follow_the_settings_and_keep_their_ids(database: Database) -> None:
    before = (await database.read(datastores.list_offers))[0]
    newer = Datastore(
        name="postgresql",
        manager="postgresql",
        port=5432,
        versions=(Version(name="15", active=False), Version(name="17", version="17.2")),
        default_version="17",
    )
    await database.write(datastores.write_datastores, [newer])
    await database.write(datastores.write_datastores, [newer])
    after = (await database.read(datastores.list_offers))[0]
    assert after.datastore.id == before.datastore.id
    assert [version.name for version in after.versions] == ["17"]
    everything = await database.read(datastores.list_offers, include_inactive=True)
    assert {version.id for version in before.versions} <= {
        version.id for version in everything[0].versions
    }
    with pytest.raises(InvalidRequestError, match="not active"):
        await create(database, datastore_version="15")


async def test_datastore_no_longer_configured_cannot_be_chosen(database: Database) -> None:
    await database.write(datastores.write_datastores, [])
    assert await database.read(datastores.list_offers) == []
    with pytest.raises(InvalidRequestError):
        await create(database)


@pytest.mark.parametrize(
    ("datastore", "version", "reason"),
    [
        ("nope", "", "DATASTORE_NOT_FOUND"),
        ("postgresql", "9", "DATASTORE_VERSION_NOT_FOUND"),
        ("nope", "15", "DATASTORE_NOT_FOUND"),
    ],
)
async def test_unknown_datastore_or_version_is_not_found(
    database: Database, datastore: str, version: str, reason: str
) -> None:
    with pytest.raises(NotFoundError) as caught:
        await create(database, datastore=datastore, datastore_version=version)
    assert caught.value.reason == reason


async def test_version_is_found_by_name_or_id(database: Database) -> None:
    by_name, datastore = await database.read(
        datastores.get_version, datastore="postgresql", version="15"
    )
    by_id, _ = await database.read(datastores.get_version, datastore="", version=by_name.id)
    assert by_id.id == by_name.id
    instance, _ = await create(database, datastore=datastore.id, datastore_version=by_name.id)
    record = await database.read(instances.get_instance, instance_id=instance)
    assert record.version.id == by_name.id


async def test_full_queue_refuses_at_once(database_url: str) -> None:
    with Database(database_url, queue=2) as small:
        schema.upgrade(small)
        results = await asyncio.gather(
            *(small.read(datastores.list_offers) for _ in range(5)), return_exceptions=True
        )
    assert [type(result) for result in results] == [list, list] + [OverloadedError] * 3


async def test_text_the_database_cannot_store_is_a_bad_request_at_most(
    database: Database,
) -> None:
    with pytest.raises((NotFoundError, InvalidRequestError)):
        await database.read(instances.get_instance, instance_id="a\x00b")
