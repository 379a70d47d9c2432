"""Administration of datastores in memory, over the datastores of a fake control plane."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from trove_grpc.errors import AlreadyExistsError, ConflictError, InvalidRequestError, NotFoundError
from trove_grpc.gen.conductor.v1 import resources_pb2

MANAGERS = ("mariadb", "mysql", "postgresql", "redis")


class FakeDatastoreAdministration:
    """Changes the list it is given; `is_in_use` says whether an instance has a version."""

    def __init__(
        self, datastores: list[resources_pb2.Datastore], is_in_use: Callable[[str], bool]
    ) -> None:
        self._datastores = datastores
        self._is_in_use = is_in_use

    async def list_datastores(self) -> Sequence[resources_pb2.Datastore]:
        return sorted(self._datastores, key=lambda item: item.name)

    async def get_datastore(self, datastore: str) -> resources_pb2.Datastore:
        for item in self._datastores:
            if datastore in (item.id, item.name):
                return item
        raise NotFoundError(
            f"Datastore '{datastore}' cannot be found.", reason="DATASTORE_NOT_FOUND"
        )

    async def delete_datastore(self, datastore: str) -> None:
        found = await self.get_datastore(datastore)
        if found.versions:
            raise ConflictError(
                f"Datastore versions exist for datastore {datastore}.",
                reason="DATASTORE_HAS_VERSIONS",
            )
        self._datastores.remove(found)

    async def list_versions(self) -> Sequence[resources_pb2.DatastoreVersion]:
        return [
            version
            for datastore in await self.list_datastores()
            for version in sorted(datastore.versions, key=lambda item: item.name)
        ]

    async def get_version(self, version_id: str) -> resources_pb2.DatastoreVersion:
        return self._find(version_id)[1]

    async def create_version(self, version: resources_pb2.DatastoreVersion) -> None:
        _check_manager(version.manager)
        _check_image(version)
        number = version.version or version.name
        datastore = next(
            (item for item in self._datastores if item.name == version.datastore_name), None
        )
        if datastore is None:
            datastore = resources_pb2.Datastore(id=str(uuid.uuid4()), name=version.datastore_name)
            self._datastores.append(datastore)
        if any((item.name, item.version) == (version.name, number) for item in datastore.versions):
            raise _exists(version.name, number)
        added = datastore.versions.add()
        added.CopyFrom(version)
        added.id, added.version, added.datastore_id = str(uuid.uuid4()), number, datastore.id
        self._make_default(datastore, added, is_default=version.is_default)

    async def update_version(
        self, version: resources_pb2.DatastoreVersion, fields: Sequence[str]
    ) -> None:
        datastore, found = self._find(version.id)
        changed = resources_pb2.DatastoreVersion()
        changed.CopyFrom(found)
        for field in fields:
            changed.ClearField(field)
            value = getattr(version, field)
            if isinstance(value, (str, bool)):
                setattr(changed, field, value)
            else:
                getattr(changed, field).extend(value)
        if version.image_tags and not version.image_id:
            changed.image_id = ""
        _check_manager(changed.manager)
        if {"image_id", "image_tags"} & set(fields):
            _check_image(changed)
        if any(
            (item.name, item.version) == (changed.name, changed.version)
            for item in datastore.versions
            if item.id != changed.id
        ):
            raise _exists(changed.name, changed.version)
        found.CopyFrom(changed)
        if "is_default" in fields:
            self._make_default(datastore, found, is_default=version.is_default)

    async def delete_version(self, version_id: str) -> None:
        datastore, found = self._find(version_id)
        if self._is_in_use(version_id):
            raise ConflictError(
                "Datastore version is in use by instance.", reason="DATASTORE_VERSION_IN_USE"
            )
        self._make_default(datastore, found, is_default=False)
        datastore.versions.remove(found)

    def _find(
        self, version_id: str
    ) -> tuple[resources_pb2.Datastore, resources_pb2.DatastoreVersion]:
        for datastore in self._datastores:
            for version in datastore.versions:
                if version.id == version_id:
                    return datastore, version
        raise NotFoundError(
            f"Datastore version '{version_id}' cannot be found.",
            reason="DATASTORE_VERSION_NOT_FOUND",
        )

    def _make_default(
        self,
        datastore: resources_pb2.Datastore,
        version: resources_pb2.DatastoreVersion,
        *,
        is_default: bool,
    ) -> None:
        if is_default:
            datastore.default_version_id = version.id
        elif datastore.default_version_id == version.id:
            datastore.default_version_id = ""
        for item in datastore.versions:
            item.is_default = item.id == datastore.default_version_id


def _check_manager(manager: str) -> None:
    if manager not in MANAGERS:
        raise InvalidRequestError(f"Datastore manager '{manager}' is unknown.")


def _check_image(version: resources_pb2.DatastoreVersion) -> None:
    if not version.image_id and not version.image_tags:
        raise InvalidRequestError("Image must be specified.", reason="IMAGE_REQUIRED")


def _exists(name: str, number: str) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"The datastore version '{name}({number})' already exists.",
        reason="DATASTORE_VERSION_EXISTS",
    )
