"""Configuration groups and parameters in the database of record, on each kind of it."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
import sqlalchemy as sa

from conductor.config import Quotas
from conductor.executor import Database
from conductor.models import Configuration, DatastoreVersion, Instance, InstanceConfiguration
from conductor.parameters import Rule
from conductor.store import configurations, datastores, instances, operations, parameters
from tests.fakes.records import NOW, a_new_instance, an_operation, begin_delete, create, finish
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError

NEW = configurations.NewConfiguration(
    tenant_id="demo",
    name="g",
    description=None,
    datastore="postgresql",
    datastore_version="15",
    values={"max_connections": 66},
)
VERSION = datastores.version_id("postgresql", "15", "15")


SIXTEEN = {
    "id": "v",
    "datastore_id": datastores.datastore_id("postgresql"),
    "name": "16",
    "version": "16",
    "is_active": True,
    "manager": "postgresql",
}


@pytest.fixture
async def database(database: Database) -> Database:
    await database.write(parameters.seed)
    return database


async def a_group(database: Database, **changes) -> str:
    record = await database.write(
        configurations.create,
        dataclasses.replace(NEW, **changes),
        default_datastore="postgresql",
        now=NOW,
    )
    return record.configuration.id


async def an_instance(database: Database) -> str:
    instance_id, operation_id = await create(database)
    await finish(database, operation_id)
    return instance_id


async def attach(database: Database, instance_id: str, group: str, tenant: str = "demo") -> str:
    return await database.write(
        configurations.attach, tenant, instance_id, group, request_id="r", now=NOW
    )


async def detach(database: Database, instance_id: str) -> str:
    return await database.write(
        configurations.detach, "demo", instance_id, request_id="r", now=NOW
    )


async def update(database: Database, group: str, values: dict, *, replaces: bool = False):
    return await database.write(
        configurations.update,
        "demo",
        group,
        configurations.Change(values=values, replaces_values=replaces),
        request_id="r",
        now=NOW,
    )


async def task_of(database: Database, instance_id: str) -> str:
    record = await database.read(instances.get_instance, instance_id=instance_id)
    return record.instance.task


def write_directly(session, model, **values):
    session.add(model(**values))


async def test_seeding_again_brings_nothing_back_that_was_changed_or_removed(database):
    rule = Rule(name="work_mem", type="integer", min=1, max=2)
    await database.write(parameters.write_rule, VERSION, rule, is_new=False)
    await database.write(parameters.delete_rule, VERSION, "max_connections")
    await asyncio.gather(*(database.write(parameters.seed) for _ in range(2)))
    assert await database.read(parameters.get_rule, VERSION, "work_mem") == rule
    with pytest.raises(NotFoundError):
        await database.read(parameters.get_rule, VERSION, "max_connections")


async def test_removed_parameter_may_be_created_anew(database):
    rule = Rule(name="work_mem", type="string")
    with pytest.raises(ConflictError, match="already exists"):
        await database.write(parameters.write_rule, VERSION, rule, is_new=True)
    await database.write(parameters.delete_rule, VERSION, "work_mem")
    with pytest.raises(InvalidRequestError, match="does not exist in the database"):
        await database.write(parameters.write_rule, VERSION, rule, is_new=False)
    await database.write(parameters.write_rule, VERSION, rule, is_new=True)
    assert await database.read(parameters.get_rule, VERSION, "work_mem") == rule


async def test_values_keep_their_types(database):
    values = {"max_connections": 66, "jit": False, "random_page_cost": 1.5, "timezone": "UTC"}
    group = await a_group(database, values=values)
    record = await database.read(configurations.get, "demo", group)
    assert record.configuration.values == values
    assert [type(v) for v in record.configuration.values.values()] == [int, bool, float, str]


NOT_OF_TYPE = "The value provided for the configuration parameter {} is not of type {}."
OUTSIDE = "The value for the configuration parameter max_connections is {} allowed: {}"
UNKNOWN = "The configuration parameter {} is not supported for this datastore: postgresql 15."


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nope": 1}, UNKNOWN.format("nope")),
        ({"max_connections": "x"}, NOT_OF_TYPE.format("max_connections", "integer")),
        ({"max_connections": True}, NOT_OF_TYPE.format("max_connections", "integer")),
        ({"jit": 1}, NOT_OF_TYPE.format("jit", "boolean")),
        ({"random_page_cost": float("nan")}, NOT_OF_TYPE.format("random_page_cost", "float")),
        ({"max_connections": 2**31}, OUTSIDE.format("greater than the maximum", 262143)),
        ({"max_connections": 0}, OUTSIDE.format("less than the minimum", 1)),
    ],
)
async def test_value_outside_of_its_rule_is_refused_in_troves_words(database, values, message):
    with pytest.raises(InvalidRequestError) as caught:
        await a_group(database, values=values)
    assert caught.value.message == message
    group = await a_group(database)
    with pytest.raises(InvalidRequestError):
        await update(database, group, values)


async def test_text_that_could_end_its_quotes_is_refused(database):
    for text in ("a\nb", "a'b", 'a"b', "a\\b", "é", "x" * 1025):
        with pytest.raises(InvalidRequestError):
            await a_group(database, values={"timezone": text})


async def test_version_without_parameters_has_no_groups(database):
    await database.write(write_directly, DatastoreVersion, **SIXTEEN)
    with pytest.raises(InvalidRequestError) as caught:
        await a_group(database, datastore_version="16")
    assert caught.value.message == (
        "Configuration groups are not supported for this datastore: postgresql 16"
    )


async def test_another_tenants_group_does_not_exist(database):
    group = await a_group(database)
    theirs = await a_group(database, tenant_id="beta")
    instance = await an_instance(database)
    for call in (
        database.read(configurations.get, "beta", group),
        database.write(configurations.delete, "beta", group),
        attach(database, instance, theirs),
        attach(database, instance, theirs, tenant="beta"),
        database.read(configurations.list_instances, "beta", group, after="", limit=9),
    ):
        with pytest.raises(NotFoundError):
            await call
    (found,) = await database.read(configurations.list_page, "beta", after="", limit=9)
    assert found.configuration.id == theirs


async def test_attached_group_is_applied_by_an_operation(database):
    group, instance = await a_group(database), await an_instance(database)
    operation = await attach(database, instance, group)
    (opened,) = await database.read(operations.list_open, after=None, limit=9)
    assert (opened.operation.id, opened.operation.kind) == (operation, "apply_configuration")
    assert await task_of(database, instance) == "UPDATING"
    assert await database.read(configurations.values_of, instance) == {"max_connections": 66}
    await finish(database, operation)
    assert await task_of(database, instance) == "NONE"
    record = await database.read(configurations.get, "demo", group)
    assert record.instance_count == 1
    shown = await database.read(instances.get_instance, instance_id=instance)
    assert shown.configuration.id == group


async def test_instance_has_one_group_at_most(database):
    group, other = await a_group(database), await a_group(database)
    instance = await an_instance(database)
    await finish(database, await attach(database, instance, group))
    for again in (group, other):
        with pytest.raises(ConflictError) as caught:
            await attach(database, instance, again)
        assert caught.value.reason == "CONFIGURATION_ATTACHED"


async def test_refused_configuration_leaves_the_instance_well_and_may_be_taken_back(database):
    group, instance = await a_group(database), await an_instance(database)
    await finish(database, await attach(database, instance, group), "FAILED", message="it refuses")
    record = await database.read(instances.get_instance, instance_id=instance)
    assert record.instance.task == "NONE"
    assert record.instance.fault_message == "it refuses"
    await finish(database, await detach(database, instance))
    record = await database.read(instances.get_instance, instance_id=instance)
    assert not record.instance.fault_message
    assert record.configuration is None


async def test_detach_that_failed_is_repeated_and_one_that_worked_is_not(database):
    group, instance = await a_group(database), await an_instance(database)
    assert await detach(database, instance) == ""
    await finish(database, await attach(database, instance, group))
    await finish(database, await detach(database, instance), "FAILED")
    again = await detach(database, instance)
    assert again
    await finish(database, again)
    assert await detach(database, instance) == ""


async def test_busy_instance_takes_no_group_and_keeps_its_group_from_changing(database):
    group = await a_group(database)
    building, _ = await create(database)
    with pytest.raises(ConflictError) as caught:
        await attach(database, building, group)
    assert caught.value.reason == "INSTANCE_BUSY"
    instance = await an_instance(database)
    await attach(database, instance, group)
    with pytest.raises(ConflictError):
        await update(database, group, {"max_connections": 77})
    record = await database.read(configurations.get, "demo", group)
    assert record.configuration.values == {"max_connections": 66}


async def test_changed_group_follows_to_each_instance_and_to_none_for_equal_values(database):
    group = await a_group(database)
    for _ in range(2):
        await finish(database, await attach(database, await an_instance(database), group))
    _, begun = await update(database, group, {"work_mem": 8192})
    assert len(begun) == 2
    for operation in begun:
        await finish(database, operation)
    record, begun = await update(database, group, {"work_mem": 8192})
    assert begun == []
    assert record.configuration.values == {"max_connections": 66, "work_mem": 8192}
    record, begun = await update(database, group, {"jit": False}, replaces=True)
    assert record.configuration.values == {"jit": False}
    assert len(begun) == 2


async def test_broken_instance_does_not_keep_its_group_from_changing(database):
    group = await a_group(database)
    instance, operation = await create(database)
    await finish(database, operation, "FAILED")
    await database.write(
        write_directly, InstanceConfiguration, instance_id=instance, configuration_id=group
    )
    _, begun = await update(database, group, {"work_mem": 8192})
    assert begun == []
    assert await detach(database, instance) == ""


async def test_attached_group_is_not_deleted_but_after_its_instances_are(database):
    group, instance = await a_group(database), await an_instance(database)
    await finish(database, await attach(database, instance, group))
    with pytest.raises(ConflictError) as caught:
        await database.write(configurations.delete, "demo", group)
    assert caught.value.reason == "CONFIGURATION_IN_USE"
    await finish(database, await begin_delete(database, instance))
    await database.write(configurations.delete, "demo", group)
    with pytest.raises(NotFoundError):
        await database.read(configurations.get, "demo", group)


async def test_group_of_another_version_does_not_fit(database):
    await database.write(write_directly, DatastoreVersion, **SIXTEEN)
    await database.write(parameters.seed)
    group = await a_group(database, datastore_version="16")
    instance = await an_instance(database)
    with pytest.raises(InvalidRequestError, match="does not match"):
        await attach(database, instance, group)


async def test_create_with_a_group_is_whole_or_not_there_at_all(database):
    async def create_with(group: str):
        return await database.write(
            configurations.create_instance,
            a_new_instance(),
            group,
            operation=an_operation("create_instance"),
            sealed_secrets=b"",
            quota_defaults=Quotas(),
            default_datastore="postgresql",
            now=NOW,
        )

    record, operation = await create_with(await a_group(database))
    assert record.configuration.name == "g"
    await finish(database, operation)
    with pytest.raises(NotFoundError):
        await create_with("00000000-0000-4000-8000-000000000000")
    count = await database.read(
        lambda session: session.scalar(sa.select(sa.func.count()).select_from(Instance))
    )
    assert count == 1


async def test_attach_and_delete_at_once_leave_no_instance_without_its_group(database):
    group, instance = await a_group(database), await an_instance(database)
    await asyncio.gather(
        attach(database, instance, group),
        database.write(configurations.delete, "demo", group),
        return_exceptions=True,
    )

    def attached_and_there(session):
        row = session.get(InstanceConfiguration, instance)
        return row is not None, session.get(Configuration, group) is not None

    attached, there = await database.read(attached_and_there)
    assert attached is there
