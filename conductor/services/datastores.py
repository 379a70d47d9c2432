"""DatastoreService: what this installation offers, and its administration."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable
from typing import Any

from conductor import views
from conductor.executor import Database
from conductor.services import checks
from conductor.store import datastore_administration, datastores
from conductor.store.datastore_administration import NewVersion
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.conductor.v1 import datastore_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import datastore_service_pb2_grpc, resources_pb2

log = logging.getLogger(__name__)

# Trove's limits of a version's fields.
_MAX_DATASTORE = 255
_MAX_NAME = 100
_MAX_NUMBER = 64
_MAX_MANAGER = 32
_MAX_TAGS = 5
_MAX_TAG = 20
_MAX_PACKAGES = 100
_MUTABLE = frozenset(
    {
        "name",
        "manager",
        "is_active",
        "is_default",
        "packages",
        "image_id",
        "image_tags",
        "registry_ext",
        "repl_strategy",
    }
)


class DatastoreService(datastore_service_pb2_grpc.DatastoreServiceServicer):
    """Datastores come from the settings, and from administrators."""

    def __init__(
        self, *, database: Database, default_datastore: str, now: Callable[[], dt.datetime]
    ) -> None:
        self._database = database
        self._default_datastore = default_datastore
        self._now = now

    async def ListDatastores(
        self, request: pb2.ListDatastoresRequest, _context: Any
    ) -> pb2.ListDatastoresResponse:
        offers = await self._database.read(
            datastores.list_offers, include_inactive=request.include_inactive
        )
        return pb2.ListDatastoresResponse(
            datastores=[views.datastore_message(offer) for offer in offers]
        )

    async def GetDatastore(
        self, request: pb2.GetDatastoreRequest, _context: Any
    ) -> pb2.GetDatastoreResponse:
        name = checks.require_text(request.datastore, "datastore")
        offer = await self._database.read(
            datastores.get_offer, name, include_inactive=request.include_inactive
        )
        return pb2.GetDatastoreResponse(datastore=views.datastore_message(offer))

    async def GetDatastoreVersion(
        self, request: pb2.GetDatastoreVersionRequest, _context: Any
    ) -> pb2.GetDatastoreVersionResponse:
        version, datastore = await self._database.read(
            datastores.resolve_version,
            datastore=checks.require_text(request.datastore, "datastore", may_be_empty=True),
            version=checks.require_text(request.version, "version", may_be_empty=True),
            default_datastore=self._default_datastore,
        )
        return pb2.GetDatastoreVersionResponse(version=views.version_message(version, datastore))

    async def ListDatastoreVersions(
        self, _request: pb2.ListDatastoreVersionsRequest, _context: Any
    ) -> pb2.ListDatastoreVersionsResponse:
        found = await self._database.read(datastores.list_versions)
        return pb2.ListDatastoreVersionsResponse(
            versions=[views.version_message(version, datastore) for version, datastore in found]
        )

    async def CreateDatastoreVersion(
        self, request: pb2.CreateDatastoreVersionRequest, _context: Any
    ) -> pb2.CreateDatastoreVersionResponse:
        version, datastore = await self._database.write(
            datastore_administration.create_version, _new_version(request.version)
        )
        log.info("datastore version %s of %s added", version.id, datastore.name)
        return pb2.CreateDatastoreVersionResponse(
            version=views.version_message(version, datastore)
        )

    async def UpdateDatastoreVersion(
        self, request: pb2.UpdateDatastoreVersionRequest, _context: Any
    ) -> pb2.UpdateDatastoreVersionResponse:
        version_id = checks.require_text(request.version.id, "version.id")
        version, datastore = await self._database.write(
            datastore_administration.update_version,
            version_id,
            _changes(request.version, set(request.update_mask.paths)),
        )
        log.info("datastore version %s of %s changed", version.id, datastore.name)
        return pb2.UpdateDatastoreVersionResponse(
            version=views.version_message(version, datastore)
        )

    async def DeleteDatastoreVersion(
        self, request: pb2.DeleteDatastoreVersionRequest, _context: Any
    ) -> pb2.DeleteDatastoreVersionResponse:
        version_id = checks.require_text(request.version_id, "version_id")
        await self._database.write(
            datastore_administration.delete_version, version_id, now=self._now()
        )
        log.info("datastore version %s deleted", version_id)
        return pb2.DeleteDatastoreVersionResponse()

    async def DeleteDatastore(
        self, request: pb2.DeleteDatastoreRequest, _context: Any
    ) -> pb2.DeleteDatastoreResponse:
        name = checks.require_text(request.datastore, "datastore")
        await self._database.write(
            datastore_administration.delete_datastore, name, now=self._now()
        )
        log.info("datastore %s deleted", name)
        return pb2.DeleteDatastoreResponse()


def _new_version(version: resources_pb2.DatastoreVersion) -> NewVersion:
    number = "version" if version.version else "name"  # Trove's default of the number
    return NewVersion(
        datastore=_required(version, "datastore_name", longest=_MAX_DATASTORE),
        name=_required(version, "name", longest=_MAX_NAME),
        version=_required(version, number, longest=_MAX_NUMBER),
        manager=_required(version, "manager", longest=_MAX_MANAGER),
        is_active=version.is_active,
        is_default=version.is_default,
        **_texts(version),
    )


def _texts(version: resources_pb2.DatastoreVersion) -> dict[str, Any]:
    """The fields that a creation and a change have in common, checked."""
    return {
        "packages": _items(version.packages, "packages", most=_MAX_PACKAGES, longest=255),
        "image_id": _optional(version.image_id, "image_id"),
        "image_tags": _items(version.image_tags, "image_tags", most=_MAX_TAGS, longest=_MAX_TAG),
        "registry_ext": _optional(version.registry_ext, "registry_ext"),
        "repl_strategy": _optional(version.repl_strategy, "repl_strategy"),
    }


def _changes(version: resources_pb2.DatastoreVersion, paths: set[str]) -> dict[str, Any]:
    if unknown := paths - _MUTABLE:
        raise InvalidRequestError(
            f"update_mask: {', '.join(sorted(unknown))} cannot be changed; "
            f"known are {', '.join(sorted(_MUTABLE))}",
            subject="update_mask",
        )
    values = _texts(version) | {"is_active": version.is_active, "is_default": version.is_default}
    for field, longest in (("name", _MAX_NAME), ("manager", _MAX_MANAGER)):
        if field in paths:
            values[field] = _required(version, field, longest=longest)
    return {path: values[path] for path in paths}


def _required(version: resources_pb2.DatastoreVersion, field: str, *, longest: int) -> str:
    return checks.require_text(getattr(version, field), f"version.{field}", longest=longest)


def _optional(value: str, field: str) -> str:
    return checks.require_text(value, f"version.{field}", may_be_empty=True)


def _items(values: Iterable[str], field: str, *, most: int, longest: int) -> list[str]:
    items = [checks.require_text(value, f"version.{field}", longest=longest) for value in values]
    if len(items) > most:
        raise InvalidRequestError(f"version.{field} has more than {most} items", subject=field)
    return items
