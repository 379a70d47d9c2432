"""Datastores and their versions, as administrators ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from google.protobuf.field_mask_pb2 import FieldMask

from gateway.rest.peers import call_peer
from trove_grpc.client import PeerChannel
from trove_grpc.errors import NotFoundError
from trove_grpc.gen.conductor.v1 import datastore_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import datastore_service_pb2_grpc, resources_pb2


class DatastoreAdministration(Protocol):
    """All raise `trove_grpc.errors`. Lists have inactive versions too."""

    async def list_datastores(self) -> Sequence[resources_pb2.Datastore]: ...

    async def get_datastore(self, datastore: str) -> resources_pb2.Datastore:
        """By name or id."""

    async def delete_datastore(self, datastore: str) -> None:
        """By name or id; ConflictError while it has versions."""

    async def list_versions(self) -> Sequence[resources_pb2.DatastoreVersion]: ...

    async def get_version(self, version_id: str) -> resources_pb2.DatastoreVersion:
        """By id only."""

    async def create_version(self, version: resources_pb2.DatastoreVersion) -> None:
        """AlreadyExistsError where the datastore has one of this name and number."""

    async def update_version(
        self, version: resources_pb2.DatastoreVersion, fields: Sequence[str]
    ) -> None:
        """Change `fields` of the version that `version.id` names."""

    async def delete_version(self, version_id: str) -> None:
        """ConflictError while something living uses it."""


class GrpcDatastoreAdministration:
    """Asks the conductor. What a repeat would answer otherwise is not sent again."""

    def __init__(self, conductor: PeerChannel) -> None:
        self._conductor = conductor

    async def list_datastores(self) -> Sequence[resources_pb2.Datastore]:
        request = pb2.ListDatastoresRequest(include_inactive=True)
        response = await call_peer(self._stub().ListDatastores, request)
        return cast(Sequence[resources_pb2.Datastore], response.datastores)

    async def get_datastore(self, datastore: str) -> resources_pb2.Datastore:
        request = pb2.GetDatastoreRequest(datastore=datastore, include_inactive=True)
        response = await call_peer(self._stub().GetDatastore, request)
        return cast(resources_pb2.Datastore, response.datastore)

    async def delete_datastore(self, datastore: str) -> None:
        request = pb2.DeleteDatastoreRequest(datastore=datastore)
        await call_peer(self._stub().DeleteDatastore, request, retry=False)

    async def list_versions(self) -> Sequence[resources_pb2.DatastoreVersion]:
        request = pb2.ListDatastoreVersionsRequest()
        response = await call_peer(self._stub().ListDatastoreVersions, request)
        return cast(Sequence[resources_pb2.DatastoreVersion], response.versions)

    async def get_version(self, version_id: str) -> resources_pb2.DatastoreVersion:
        request = pb2.GetDatastoreVersionRequest(version=version_id)
        response = await call_peer(self._stub().GetDatastoreVersion, request)
        if response.version.id != version_id:  # a name of one of the default datastore's
            raise NotFoundError(
                f"Datastore version '{version_id}' cannot be found.",
                reason="DATASTORE_VERSION_NOT_FOUND",
                subject=version_id,
            )
        return cast(resources_pb2.DatastoreVersion, response.version)

    async def create_version(self, version: resources_pb2.DatastoreVersion) -> None:
        request = pb2.CreateDatastoreVersionRequest(version=version)
        await call_peer(self._stub().CreateDatastoreVersion, request, retry=False)

    async def update_version(
        self, version: resources_pb2.DatastoreVersion, fields: Sequence[str]
    ) -> None:
        request = pb2.UpdateDatastoreVersionRequest(
            version=version, update_mask=FieldMask(paths=fields)
        )
        await call_peer(self._stub().UpdateDatastoreVersion, request)

    async def delete_version(self, version_id: str) -> None:
        request = pb2.DeleteDatastoreVersionRequest(version_id=version_id)
        await call_peer(self._stub().DeleteDatastoreVersion, request, retry=False)

    def _stub(self) -> datastore_service_pb2_grpc.DatastoreServiceStub:
        return self._conductor.stub(datastore_service_pb2_grpc.DatastoreServiceStub)
