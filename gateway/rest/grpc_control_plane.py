"""The control plane over mutual-TLS gRPC."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from typing import Any, cast

from gateway.rest.peers import call_peer
from gateway.rest.ports.actions import Actions, GrpcActions
from gateway.rest.ports.configurations import Configurations, GrpcConfigurations
from gateway.rest.ports.datastores import DatastoreAdministration, GrpcDatastoreAdministration
from gateway.rest.ports.guests import Guests
from gateway.rest.ports.management import GrpcManagement, Management
from gateway.rest.ports.modules import GrpcModules, Modules
from gateway.rest.ports.quotas import GrpcQuotas, Quotas
from gateway.rest.ports.rates import GrpcRates, Rates
from gateway.rest.ports.root import GrpcRootHistory, RootHistory
from trove_grpc.client import PeerChannel, call
from trove_grpc.errors import TroveError
from trove_grpc.gen.conductor.v1 import (
    datastore_service_pb2,
    datastore_service_pb2_grpc,
    instance_service_pb2,
    instance_service_pb2_grpc,
    resources_pb2,
)
from trove_grpc.gen.taskmanager.v1 import (
    task_manager_service_pb2,
    task_manager_service_pb2_grpc,
)

log = logging.getLogger(__name__)


class GrpcControlPlane:
    """Calls the conductor and the task manager. Every call but `wake` is idempotent: retried."""

    def __init__(
        self,
        *,
        conductor: PeerChannel,
        taskmanager: PeerChannel,
        guests: Guests,
        wake_timeout: dt.timedelta,
    ) -> None:
        self.guests = guests
        self.actions: Actions = GrpcActions(conductor)
        self.configurations: Configurations = GrpcConfigurations(conductor)
        self.modules: Modules = GrpcModules(conductor)
        self.datastore_administration: DatastoreAdministration = GrpcDatastoreAdministration(
            conductor
        )
        self.management: Management = GrpcManagement(conductor)
        self.quotas: Quotas = GrpcQuotas(conductor)
        self.rates: Rates = GrpcRates(conductor)
        self.root_history: RootHistory = GrpcRootHistory(conductor)
        self._conductor = conductor
        self._taskmanager = taskmanager
        self._wake_timeout = wake_timeout

    async def create_instance(
        self, request: instance_service_pb2.CreateInstanceRequest
    ) -> instance_service_pb2.CreateInstanceResponse:
        response = await call_peer(self._instances().CreateInstance, request)
        return cast(instance_service_pb2.CreateInstanceResponse, response)

    async def get_instance(self, tenant_id: str, instance_id: str) -> resources_pb2.InstanceView:
        request = instance_service_pb2.GetInstanceViewRequest(
            tenant_id=tenant_id, instance_id=instance_id
        )
        response = await call_peer(self._instances().GetInstanceView, request)
        return cast(resources_pb2.InstanceView, response.instance)

    async def list_instances(
        self, tenant_id: str, *, page_size: int, page_token: str
    ) -> instance_service_pb2.ListInstanceViewsResponse:
        request = instance_service_pb2.ListInstanceViewsRequest(
            tenant_id=tenant_id, page_size=page_size, page_token=page_token
        )
        response = await call_peer(self._instances().ListInstanceViews, request)
        return cast(instance_service_pb2.ListInstanceViewsResponse, response)

    async def update_instance(self, request: instance_service_pb2.UpdateInstanceRequest) -> None:
        await call_peer(self._instances().UpdateInstance, request)

    async def delete_instance(self, request: instance_service_pb2.DeleteInstanceRequest) -> str:
        response = await call_peer(self._instances().DeleteInstance, request)
        return cast(str, response.operation_id)

    async def get_operation(self, tenant_id: str, operation_id: str) -> resources_pb2.Operation:
        request = instance_service_pb2.GetOperationRequest(
            tenant_id=tenant_id, operation_id=operation_id
        )
        response = await call_peer(self._instances().GetOperation, request)
        return cast(resources_pb2.Operation, response.operation)

    async def list_operations(
        self, tenant_id: str, instance_id: str, *, page_size: int, page_token: str
    ) -> instance_service_pb2.ListOperationsResponse:
        request = instance_service_pb2.ListOperationsRequest(
            tenant_id=tenant_id,
            instance_id=instance_id,
            page_size=page_size,
            page_token=page_token,
        )
        response = await call_peer(self._instances().ListOperations, request)
        return cast(instance_service_pb2.ListOperationsResponse, response)

    async def get_quota(self, tenant_id: str) -> Sequence[instance_service_pb2.QuotaResource]:
        request = instance_service_pb2.GetQuotaRequest(tenant_id=tenant_id)
        response = await call_peer(self._instances().GetQuota, request)
        return cast(Sequence[instance_service_pb2.QuotaResource], response.resources)

    async def list_datastores(self) -> Sequence[resources_pb2.Datastore]:
        request = datastore_service_pb2.ListDatastoresRequest()
        response = await call_peer(self._datastores().ListDatastores, request)
        return cast(Sequence[resources_pb2.Datastore], response.datastores)

    async def get_datastore(self, datastore: str) -> resources_pb2.Datastore:
        request = datastore_service_pb2.GetDatastoreRequest(datastore=datastore)
        response = await call_peer(self._datastores().GetDatastore, request)
        return cast(resources_pb2.Datastore, response.datastore)

    async def get_datastore_version(
        self, datastore: str, version: str
    ) -> resources_pb2.DatastoreVersion:
        request = datastore_service_pb2.GetDatastoreVersionRequest(
            datastore=datastore, version=version
        )
        response = await call_peer(self._datastores().GetDatastoreVersion, request)
        return cast(resources_pb2.DatastoreVersion, response.version)

    async def list_flavors(self) -> Sequence[task_manager_service_pb2.Flavor]:
        stub = self._taskmanager.stub(task_manager_service_pb2_grpc.TaskManagerServiceStub)
        response = await call_peer(stub.ListFlavors, task_manager_service_pb2.ListFlavorsRequest())
        return cast(Sequence[task_manager_service_pb2.Flavor], response.flavors)

    async def wake(self, operation_id: str) -> None:
        try:
            stub = self._taskmanager.stub(task_manager_service_pb2_grpc.TaskManagerServiceStub)
            await call(
                stub.Wake,
                task_manager_service_pb2.WakeRequest(operation_id=operation_id),
                timeout=self._wake_timeout.total_seconds(),
            )
        except TroveError as error:
            log.warning(
                "operation %s is written; the task manager was not told (%s: %s) and will find "
                "it at its next sweep",
                operation_id,
                error.reason,
                error.message,
            )

    def _instances(self) -> Any:
        return self._conductor.stub(instance_service_pb2_grpc.InstanceServiceStub)

    def _datastores(self) -> Any:
        return self._conductor.stub(datastore_service_pb2_grpc.DatastoreServiceStub)
