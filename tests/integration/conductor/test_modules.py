"""Modules in the database of record, on each kind of it."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import os

import pytest
import sqlalchemy as sa

from conductor.executor import Database
from conductor.models import Instance, InstanceModule, Module
from conductor.sealing import Sealer
from conductor.store import modules
from tests.integration.conductor.test_store import create as create_instance
from trove_grpc.errors import AlreadyExistsError, PermissionDeniedError

NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
SEALER = Sealer(os.urandom(32))
CANARY = b"canary-in-a-module"
ALICE = modules.Caller(tenant_id="demo", is_admin=False)
NEW = modules.NewModule(
    name="m",
    type="generic",
    contents=CANARY,
    description=None,
    datastore="",
    datastore_version="",
    auto_apply=False,
    all_tenants=False,
    is_visible=True,
    live_update=False,
    priority_apply=False,
    apply_order=5,
    is_admin=False,
)


async def create(database: Database, **changes) -> modules.ModuleRecord:
    return await database.write(
        modules.create, ALICE, dataclasses.replace(NEW, **changes), sealer=SEALER, now=NOW
    )


async def update(database: Database, module_id: str, **changes) -> modules.ModuleRecord:
    return await database.write(modules.update, ALICE, module_id, changes, sealer=SEALER, now=NOW)


async def give(database: Database, module: Module) -> str:
    """An instance that has the module."""
    instance_id, _ = await create_instance(database)
    await database.write(
        lambda s: s.add(
            InstanceModule(
                instance_id=instance_id, module_id=module.id, md5=module.md5, apply_time=NOW
            )
        )
    )
    return instance_id


async def test_contents_lie_sealed_and_open_for_their_module_alone(database: Database) -> None:
    record = await create(database)
    sealed = await database.read(lambda s: s.scalars(sa.select(Module.sealed_contents)).one())
    assert CANARY not in sealed
    assert SEALER.open(sealed, record_id=record.module.id) == CANARY


async def test_of_equal_modules_made_at_once_one_is_there(database: Database) -> None:
    results = await asyncio.gather(*(create(database) for _ in range(6)), return_exceptions=True)
    made = [result for result in results if isinstance(result, modules.ModuleRecord)]
    refused = [result for result in results if isinstance(result, AlreadyExistsError)]
    assert (len(made), len(refused)) == (1, 5)


async def test_module_in_use_keeps_its_contents_and_stays(database: Database) -> None:
    record = await create(database)
    await give(database, record.module)
    found = await database.read(modules.get, ALICE, record.module.id)
    assert found.instance_count == 1
    for attempt in (
        update(database, record.module.id, contents=b"other"),
        database.write(modules.delete, ALICE, record.module.id, now=NOW),
    ):
        with pytest.raises(PermissionDeniedError) as caught:
            await attempt
        assert caught.value.reason == "MODULE_APPLIED"
    assert (await update(database, record.module.id, name="n")).module.name == "n"


async def test_live_module_changes_while_it_is_in_use(database: Database) -> None:
    record = await create(database, live_update=True)
    await give(database, record.module)
    changed = await update(database, record.module.id, contents=b"other")
    assert changed.module.id == record.module.id
    sealed = await database.read(lambda s: s.scalars(sa.select(Module.sealed_contents)).one())
    assert SEALER.open(sealed, record_id=record.module.id) == b"other"


async def test_deleted_instance_holds_no_module(database: Database) -> None:
    record = await create(database)
    instance_id = await give(database, record.module)
    await database.write(
        lambda s: s.execute(
            sa.update(Instance).where(Instance.id == instance_id).values(delete_time=NOW)
        )
    )
    await database.write(modules.delete, ALICE, record.module.id, now=NOW)
    assert await database.read(lambda s: s.scalars(sa.select(InstanceModule)).all()) == []
