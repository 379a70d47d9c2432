"""An in-memory control plane for the REST API; tests/integration/gateway_rest holds it to the
contract that the real one meets too."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from tests.fakes.rest_actions import FakeActions
from tests.fakes.rest_configurations import FakeConfigurations
from tests.fakes.rest_datastores import FakeDatastoreAdministration
from tests.fakes.rest_guests import FakeGuests
from tests.fakes.rest_management import FakeManagement
from tests.fakes.rest_modules import FakeModules
from tests.fakes.rest_quotas import FakeQuotas
from tests.fakes.rest_rates import FakeRates
from tests.fakes.rest_root import FakeRootHistory
from trove_grpc.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    QuotaExceededError,
    StaleError,
    TroveError,
)
from trove_grpc.gen.conductor.v1 import instance_service_pb2, resources_pb2
from trove_grpc.gen.taskmanager.v1 import task_manager_service_pb2

MAX_VOLUME_GIB = 25


def build_datastore(
    name: str, versions: Sequence[tuple[str, str, bool]], manager: str = "postgresql"
) -> resources_pb2.Datastore:
    """A datastore with (name, number, active) versions; the first is the default."""
    datastore = resources_pb2.Datastore(id=str(uuid.uuid5(uuid.NAMESPACE_DNS, name)), name=name)
    for version_name, number, is_active in versions:
        datastore.versions.add(
            id=str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}/{version_name}")),
            name=version_name,
            version=number,
            datastore_id=datastore.id,
            datastore_name=name,
            manager=manager,
            is_active=is_active,
        )
    datastore.default_version_id = datastore.versions[0].id
    datastore.versions[0].is_default = True
    return datastore


class FakeControlPlane:
    """Keeps instances in a dictionary and every create request for the test to look at."""

    def __init__(self, datastores: Sequence[resources_pb2.Datastore] = ()) -> None:
        self.datastores = list(datastores) or [build_datastore("postgresql", [("15", "15", True)])]
        self.flavors = [
            task_manager_service_pb2.Flavor(
                id=str(number), name=f"f{number}", ram_mib=512 * number, vcpus=1, disk_gib=10
            )
            for number in (1, 2, 3)
        ]
        self.configurations = FakeConfigurations(self)
        self.modules = FakeModules()
        self.rates = FakeRates()
        self.limits = {"instances": 55, "ram": -1, "backups": 50, "volumes": 40}
        self.quotas = FakeQuotas(self.limits)
        self.instances: dict[str, resources_pb2.InstanceView] = {}
        self.guests = FakeGuests()
        self.root_history = FakeRootHistory(self.instances)
        self.operations: dict[str, resources_pb2.Operation] = {}
        self.actions = FakeActions(self.instances, self.operations, MAX_VOLUME_GIB)
        self.created: list[instance_service_pb2.CreateInstanceRequest] = []
        self.woken: list[str] = []
        self.failure: Exception | None = None
        self.datastore_administration = FakeDatastoreAdministration(
            self.datastores,
            lambda version_id: any(
                item.datastore_version.id == version_id for item in self.instances.values()
            ),
        )
        self.management = FakeManagement(self.instances)
        self._answers: dict[tuple[str, str], instance_service_pb2.CreateInstanceResponse] = {}

    def fail(self, error: TroveError | Exception | None) -> None:
        """Let every call fail from now on."""
        self.failure = error

    def activate(self, instance_id: str) -> resources_pb2.InstanceView:
        """What a finished creation would have done."""
        instance = self.instances[instance_id]
        instance.status = "ACTIVE"
        instance.operating_status = "HEALTHY"
        instance.addresses[:] = ["10.1.1.1"]
        return instance

    async def create_instance(
        self, request: instance_service_pb2.CreateInstanceRequest
    ) -> instance_service_pb2.CreateInstanceResponse:
        self._check()
        key = (request.tenant_id, request.request_id)
        if key in self._answers:
            return self._answers[key]
        version = await self.get_datastore_version(request.datastore, request.datastore_version)
        if not version.is_active:
            raise InvalidRequestError(
                f"Datastore version '{version.name}' is not active.",
                reason="DATASTORE_VERSION_INACTIVE",
            )
        if request.volume_size_gib > MAX_VOLUME_GIB:
            raise QuotaExceededError(
                f"Volume 'size' cannot exceed maximum of {MAX_VOLUME_GIB} GB, "
                f"{request.volume_size_gib} cannot be accepted.",
                reason="VOLUME_TOO_LARGE",
            )
        if len(self._of(request.tenant_id)) >= self.quotas.of(request.tenant_id)["instances"]:
            raise QuotaExceededError("Quota exceeded for resources: ['instances'].")
        group = None
        if request.configuration_id:
            group = await self.configurations.get(request.tenant_id, request.configuration_id)
        self.created.append(request)
        now = Timestamp()
        now.GetCurrentTime()
        instance = resources_pb2.InstanceView(
            id=str(uuid.uuid4()),
            tenant_id=request.tenant_id,
            name=request.name,
            status="BUILD",
            datastore_version=version,
            flavor=request.flavor,
            volume_size_gib=request.volume_size_gib,
            region=request.region,
            deletion_protection=request.deletion_protection,
            row_version=1,
            create_time=now,
            update_time=now,
        )
        if request.HasField("access"):
            instance.access.CopyFrom(request.access)
        if group is not None:
            instance.configuration.CopyFrom(
                resources_pb2.ConfigurationName(id=group.id, name=group.name)
            )
        operation = self.begin("create_instance", instance, request.request_id)
        instance.operation_id = operation.id
        self.instances[instance.id] = instance
        answer = instance_service_pb2.CreateInstanceResponse(
            instance=instance, operation_id=operation.id
        )
        self._answers[key] = answer
        return answer

    async def get_instance(self, tenant_id: str, instance_id: str) -> resources_pb2.InstanceView:
        self._check()
        instance = self.instances.get(instance_id)
        if instance is None or instance.tenant_id != tenant_id:
            raise NotFoundError(
                f"Resource {instance_id} cannot be found.", reason="INSTANCE_NOT_FOUND"
            )
        return instance

    async def list_instances(
        self, tenant_id: str, *, page_size: int, page_token: str
    ) -> instance_service_pb2.ListInstanceViewsResponse:
        self._check()
        following = [item for item in self._of(tenant_id) if item.id > page_token]
        page = following[:page_size]
        return instance_service_pb2.ListInstanceViewsResponse(
            instances=page,
            next_page_token=page[-1].id if len(following) > page_size else "",
        )

    async def update_instance(self, request: instance_service_pb2.UpdateInstanceRequest) -> None:
        instance = await self.get_instance(request.tenant_id, request.instance_id)
        changed = resources_pb2.InstanceView()
        changed.CopyFrom(instance)
        if request.name:
            changed.name = request.name
        if request.HasField("deletion_protection"):
            changed.deletion_protection = request.deletion_protection
        if changed != instance:
            self._check_version(request, instance)
            changed.row_version += 1
            instance.CopyFrom(changed)

    async def delete_instance(self, request: instance_service_pb2.DeleteInstanceRequest) -> str:
        instance_id = request.instance_id
        instance = await self.get_instance(request.tenant_id, instance_id)
        if instance.status == "SHUTDOWN":
            return instance.operation_id
        self._check_version(request, instance)
        if instance.deletion_protection:
            raise ConflictError(
                f"Instance {instance_id} is protected from deletion.", reason="DELETION_PROTECTED"
            )
        if instance.status == "BUILD":
            raise ConflictError(
                f"Instance {instance_id} is not ready. (Status is BUILD).",
                reason="INSTANCE_NOT_READY",
            )
        instance.status, instance.operating_status = "SHUTDOWN", ""
        instance.row_version += 1
        instance.operation_id = self.begin("delete_instance", instance, request.request_id).id
        return instance.operation_id

    def _check_version(
        self,
        request: instance_service_pb2.UpdateInstanceRequest
        | instance_service_pb2.DeleteInstanceRequest,
        instance: resources_pb2.InstanceView,
    ) -> None:
        if (
            request.expected_row_versions
            and instance.row_version not in request.expected_row_versions
        ):
            raise StaleError(f"Instance {instance.id} was changed.", reason="PRECONDITION_FAILED")

    async def get_operation(self, tenant_id: str, operation_id: str) -> resources_pb2.Operation:
        self._check()
        operation = self.operations.get(operation_id)
        if operation is None or operation.tenant_id != tenant_id:
            raise NotFoundError(f"Operation {operation_id} cannot be found.")
        return operation

    async def list_operations(
        self, tenant_id: str, instance_id: str, *, page_size: int, page_token: str
    ) -> instance_service_pb2.ListOperationsResponse:
        self._check()
        found = [
            operation
            for operation in reversed(self.operations.values())
            if (operation.tenant_id, operation.instance_id) == (tenant_id, instance_id)
        ]
        if page_token and not (page_token.isascii() and page_token.isdigit()):
            raise InvalidRequestError(
                "page_token is none that an earlier page gave", reason="BAD_PAGE_TOKEN"
            )
        start = int(page_token or 0)
        end = start + page_size
        return instance_service_pb2.ListOperationsResponse(
            operations=found[start:end], next_page_token=str(end) if len(found) > end else ""
        )

    async def get_quota(self, tenant_id: str) -> Sequence[instance_service_pb2.QuotaResource]:
        self._check()
        return [
            instance_service_pb2.QuotaResource(resource=resource, limit=limit)
            for resource, limit in self.quotas.of(tenant_id).items()
        ]

    async def list_datastores(self) -> Sequence[resources_pb2.Datastore]:
        found = [await self.get_datastore(item.id) for item in self.datastores]
        return [item for item in found if item.versions]

    async def get_datastore(self, datastore: str) -> resources_pb2.Datastore:
        self._check()
        for item in self.datastores:
            if datastore in (item.id, item.name):
                found = resources_pb2.Datastore()
                found.CopyFrom(item)
                del found.versions[:]
                found.versions.extend(version for version in item.versions if version.is_active)
                return found
        raise NotFoundError(
            f"Datastore '{datastore}' cannot be found.", reason="DATASTORE_NOT_FOUND"
        )

    async def get_datastore_version(
        self, datastore: str, version: str
    ) -> resources_pb2.DatastoreVersion:
        self._check()
        candidates = self.datastores
        if datastore or not version:
            chosen = await self.get_datastore(datastore or self.datastores[0].name)
            candidates = [item for item in self.datastores if item.id == chosen.id]
        wanted = version or candidates[0].default_version_id
        for candidate in candidates:
            for item in candidate.versions:
                if wanted == item.id or (datastore and wanted == item.name):
                    return item
        raise NotFoundError(
            f"Datastore version '{version}' cannot be found.",
            reason="DATASTORE_VERSION_NOT_FOUND",
        )

    async def list_flavors(self) -> Sequence[task_manager_service_pb2.Flavor]:
        self._check()
        return self.flavors

    async def wake(self, operation_id: str) -> None:
        self.woken.append(operation_id)

    def begin(
        self, kind: str, instance: resources_pb2.InstanceView, request_id: str = ""
    ) -> resources_pb2.Operation:
        """Start an operation on an instance."""
        operation = resources_pb2.Operation(
            id=str(uuid.uuid4()),
            kind=kind,
            tenant_id=instance.tenant_id,
            instance_id=instance.id,
            state=resources_pb2.OPERATION_STATE_RUNNING,
            request_id=request_id,
            create_time=instance.create_time,
        )
        self.operations[operation.id] = operation
        return operation

    def _of(self, tenant_id: str) -> list[resources_pb2.InstanceView]:
        own = [item for item in self.instances.values() if item.tenant_id == tenant_id]
        return sorted(own, key=lambda item: item.id)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure
