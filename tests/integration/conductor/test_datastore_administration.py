"""Datastores and versions that administrators make, beside those of the settings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conductor.config import Datastore, Version
from conductor.executor import Database
from conductor.store import datastore_administration, datastores, instances
from conductor.store.datastore_administration import NewVersion
from tests.fakes.records import NOW, begin_delete, create, finish
from trove_grpc.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
)

OFFERED = Datastore(
    name="postgresql",
    manager="postgresql",
    port=5432,
    versions=(Version(name="15"), Version(name="16")),
    default_version="15",
)


def a_version(**changes: Any) -> NewVersion:
    values: dict[str, Any] = {
        "datastore": "mysql",
        "name": "8.0",
        "version": "8.0.36",
        "manager": "mysql",
        "is_active": True,
        "is_default": False,
        "image_id": "",
        "image_tags": ["trove", "mysql"],
        "packages": [],
        "registry_ext": "",
        "repl_strategy": "",
    }
    return NewVersion(**{**values, **changes})


async def add(database: Database, **changes: Any) -> str:
    version, _ = await database.write(
        datastore_administration.create_version, a_version(**changes)
    )
    return version.id


async def remove(database: Database, version_id: str) -> None:
    await database.write(datastore_administration.delete_version, version_id, now=NOW)


async def change(database: Database, version_id: str, **changes: Any) -> None:
    await database.write(datastore_administration.update_version, version_id, changes)


async def restart(database: Database, *offered: Datastore) -> None:
    """What a conductor does at its start."""
    await database.write(datastores.write_datastores, offered)


async def names(database: Database, datastore: str, *, all_of_them: bool = True) -> list[str]:
    offer = await database.read(datastores.get_offer, datastore, include_inactive=all_of_them)
    return [version.name for version in offer.versions]


async def test_a_version_brings_its_datastore_with_its_engines_port(database: Database):
    version_id = await add(database, is_default=True)

    offer = await database.read(datastores.get_offer, "mysql")
    assert (offer.datastore.manager, offer.datastore.port) == ("mysql", 3306)
    assert offer.datastore.default_version_id == version_id
    assert offer.versions[0].image_tags == ["trove", "mysql"]


async def test_a_version_that_is_there_already_is_refused(database: Database):
    await add(database)
    await add(database, version="8.0.37")
    with pytest.raises(AlreadyExistsError, match=r"'8\.0\(8\.0\.36\)' already exists"):
        await add(database)


async def test_of_many_who_add_one_version_at_once_one_succeeds(database: Database):
    results = await asyncio.gather(*(add(database) for _ in range(8)), return_exceptions=True)

    made = [result for result in results if isinstance(result, str)]
    assert len(made) == 1
    assert sum(isinstance(result, AlreadyExistsError) for result in results) == 7


async def test_conductors_that_start_at_once_offer_each_version_once(database: Database):
    new = Datastore(name="redis", manager="redis", port=6379, versions=(Version(name="7.0"),))
    await asyncio.gather(*(restart(database, OFFERED, new) for _ in range(4)))

    assert await names(database, "redis", all_of_them=False) == ["7.0"]


async def test_a_version_needs_an_image_or_tags_and_a_known_engine(database: Database):
    with pytest.raises(InvalidRequestError, match="Image must be specified"):
        await add(database, image_tags=[])
    with pytest.raises(InvalidRequestError, match="known are mariadb"):
        await add(database, manager="oracle")
    with pytest.raises(NotFoundError):
        await database.read(datastores.get_offer, "mysql")


async def test_an_inactive_version_is_listed_for_administrators_only(database: Database):
    await add(database, is_active=False)

    assert await names(database, "mysql", all_of_them=False) == []
    assert await names(database, "mysql") == ["8.0"]
    listed = await database.read(datastores.list_versions)
    assert [version.name for version, _ in listed] == ["8.0", "15"]
    offers = await database.read(datastores.list_offers)
    assert [offer.datastore.name for offer in offers] == ["postgresql"]


async def test_a_change_names_its_columns_and_leaves_the_others(database: Database):
    version_id = await add(database, image_id="image-1", packages=["p"])
    await change(database, version_id, is_active=False, name="8.0-old")

    (version, _), *_rest = await database.read(datastores.list_versions)
    assert (version.name, version.is_active) == ("8.0-old", False)
    assert (version.image_id, version.packages) == ("image-1", ["p"])


async def test_tags_without_an_image_take_the_image_away(database: Database):
    version_id = await add(database, image_id="image-1", image_tags=[])
    await change(database, version_id, image_tags=["trove"])

    version, _ = await database.read(datastores.get_version, datastore="", version=version_id)
    assert (version.image_id, version.image_tags) == ("", ["trove"])
    with pytest.raises(InvalidRequestError, match="Image must be specified"):
        await change(database, version_id, image_tags=[])


async def test_a_name_that_is_taken_cannot_be_given(database: Database):
    await add(database)
    other = await add(database, name="8.4")
    with pytest.raises(AlreadyExistsError):
        await change(database, other, name="8.0")


async def test_the_default_is_given_and_taken(database: Database):
    version_id = await add(database)
    for is_default, expected in ((True, version_id), (True, version_id), (False, None)):
        await change(database, version_id, is_default=is_default)
        offer = await database.read(datastores.get_offer, "mysql")
        assert offer.datastore.default_version_id == expected


async def test_a_version_in_use_stays_until_its_last_instance_is_gone(database: Database):
    version_id = await add(database, datastore="postgresql", manager="postgresql", name="17")
    instance, operation = await create(database, datastore_version="17")
    with pytest.raises(ConflictError, match="in use by instance"):
        await remove(database, version_id)
    await finish(database, operation)
    await finish(database, await begin_delete(database, instance))
    await remove(database, version_id)

    assert "17" not in await names(database, "postgresql")
    record = await database.read(
        instances.get_instance, instance_id=instance, include_deleted=True
    )
    assert record.version.name == "17"
    with pytest.raises(NotFoundError):
        await remove(database, version_id)
    with pytest.raises(NotFoundError):
        await create(database, datastore_version="17")


async def test_a_deleted_version_can_be_made_again(database: Database):
    version_id = await add(database, is_default=True)
    await remove(database, version_id)
    offer = await database.read(datastores.get_offer, "mysql", include_inactive=True)
    assert (offer.versions, offer.datastore.default_version_id) == ([], None)

    assert await add(database, image_tags=["new"]) == version_id
    assert await names(database, "mysql") == ["8.0"]


async def test_a_datastore_goes_once_it_has_no_versions_and_comes_back_with_one(
    database: Database,
):
    version_id = await add(database)
    with pytest.raises(ConflictError, match="Datastore versions exist for datastore mysql"):
        await database.write(datastore_administration.delete_datastore, "mysql", now=NOW)
    await remove(database, version_id)
    await database.write(datastore_administration.delete_datastore, "mysql", now=NOW)
    with pytest.raises(NotFoundError):
        await database.read(datastores.get_offer, "mysql")

    await add(database, name="8.4")
    assert await names(database, "mysql") == ["8.4"]


async def test_the_settings_leave_alone_what_an_administrator_made(database: Database):
    await add(database)
    await restart(database, OFFERED)

    assert await names(database, "mysql", all_of_them=False) == ["8.0"]
    assert await names(database, "postgresql") == ["15", "16"]


async def test_the_settings_leave_alone_what_an_administrator_changed_or_deleted(
    database: Database,
):
    await restart(database, OFFERED)
    offer = await database.read(datastores.get_offer, "postgresql")
    fifteen, sixteen = offer.versions
    await change(database, fifteen.id, is_active=False, name="15-old", is_default=False)
    await remove(database, sixteen.id)
    await restart(database, OFFERED)

    assert await names(database, "postgresql") == ["15-old"]
    assert await names(database, "postgresql", all_of_them=False) == []
    offer = await database.read(datastores.get_offer, "postgresql")
    assert offer.datastore.default_version_id is None


async def test_what_is_gone_from_the_settings_becomes_inactive(database: Database):
    await restart(database, OFFERED)
    await restart(database)

    assert await names(database, "postgresql") == ["15", "16"]
    assert await names(database, "postgresql", all_of_them=False) == []
