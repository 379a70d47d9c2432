"""DatastoreService: what this installation offers."""

from __future__ import annotations

from typing import Any

from conductor import views
from conductor.executor import Database
from conductor.services import checks
from conductor.store import datastores
from trove_grpc.gen.conductor.v1 import datastore_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import datastore_service_pb2_grpc


class DatastoreService(datastore_service_pb2_grpc.DatastoreServiceServicer):
    """Reads only: datastores come from the settings."""

    def __init__(self, *, database: Database, default_datastore: str) -> None:
        self._database = database
        self._default_datastore = default_datastore

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
        offer = await self._database.read(datastores.get_offer, name)
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
