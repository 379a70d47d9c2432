"""What the REST API needs from the rest of the system; `grpc_control_plane` is the real one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.rest.ports.actions import Actions
from gateway.rest.ports.configurations import Configurations
from gateway.rest.ports.datastores import DatastoreAdministration
from gateway.rest.ports.guests import Guests
from gateway.rest.ports.management import Management
from gateway.rest.ports.modules import Modules
from gateway.rest.ports.quotas import Quotas
from gateway.rest.ports.rates import Rates
from gateway.rest.ports.root import RootHistory
from trove_grpc.gen.conductor.v1 import instance_service_pb2, resources_pb2
from trove_grpc.gen.taskmanager.v1 import task_manager_service_pb2


class ControlPlane(Protocol):
    """One method per REST request. All raise `trove_grpc.errors`.

    NotFoundError covers another tenant's things too. Reasons that REST treats specially stand
    in `problems`. What a group of routes needs alone is a port of its own.
    """

    @property
    def guests(self) -> Guests: ...

    @property
    def actions(self) -> Actions: ...

    @property
    def configurations(self) -> Configurations: ...

    @property
    def modules(self) -> Modules: ...

    @property
    def datastore_administration(self) -> DatastoreAdministration: ...

    @property
    def management(self) -> Management: ...

    @property
    def quotas(self) -> Quotas: ...

    @property
    def rates(self) -> Rates: ...

    @property
    def root_history(self) -> RootHistory: ...

    async def create_instance(
        self, request: instance_service_pb2.CreateInstanceRequest
    ) -> instance_service_pb2.CreateInstanceResponse: ...

    async def get_instance(
        self, tenant_id: str, instance_id: str
    ) -> resources_pb2.InstanceView: ...

    async def list_instances(
        self, tenant_id: str, *, page_size: int, page_token: str
    ) -> instance_service_pb2.ListInstanceViewsResponse: ...

    async def update_instance(
        self, request: instance_service_pb2.UpdateInstanceRequest
    ) -> None: ...

    async def delete_instance(self, request: instance_service_pb2.DeleteInstanceRequest) -> str:
        """The id of the operation that deletes it."""

    async def get_operation(
        self, tenant_id: str, operation_id: str
    ) -> resources_pb2.Operation: ...

    async def list_operations(
        self, tenant_id: str, instance_id: str, *, page_size: int, page_token: str
    ) -> instance_service_pb2.ListOperationsResponse: ...

    async def get_quota(self, tenant_id: str) -> Sequence[instance_service_pb2.QuotaResource]: ...

    async def list_datastores(self) -> Sequence[resources_pb2.Datastore]:
        """Those with an active version."""

    async def get_datastore(self, datastore: str) -> resources_pb2.Datastore:
        """By name or id, with its active versions."""

    async def get_datastore_version(
        self, datastore: str, version: str
    ) -> resources_pb2.DatastoreVersion:
        """By names or ids, inactive ones too.

        The datastore may be empty when the version is an id. An empty version means the
        datastore's default; both empty, that of the default datastore.
        """

    async def list_flavors(self) -> Sequence[task_manager_service_pb2.Flavor]: ...

    async def wake(self, operation_id: str) -> None:
        """Tell the task manager of an operation, best effort: never raises."""
