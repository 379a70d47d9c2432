"""Actions in memory; tests/integration/gateway_rest holds it to the conductor's contract."""

from __future__ import annotations

import uuid

from trove_grpc.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    QuotaExceededError,
)
from trove_grpc.gen.conductor.v1 import action_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import resources_pb2

_KINDS = {"restart": "restart_instance", "stop": "stop_instance"}
_STATUSES = {"restart": "REBOOT", "resize_volume": "RESIZE", "resize_flavor": "RESIZE"}
_TASKS = {"BUILD": "BUILDING", "REBOOT": "REBOOTING", "RESIZE": "RESIZING", "SHUTDOWN": "DELETING"}


class FakeActions:
    """Acts on the control plane's own instances and operations."""

    def __init__(
        self,
        instances: dict[str, resources_pb2.InstanceView],
        operations: dict[str, resources_pb2.Operation],
        largest_gib: int,
    ) -> None:
        self.begun: list[pb2.BeginActionRequest] = []
        self._instances = instances
        self._operations = operations
        self._largest_gib = largest_gib
        self._answers: dict[tuple[str, str], tuple[bytes, str]] = {}

    async def begin(self, request: pb2.BeginActionRequest) -> str:
        instance = self._get(request.instance_id)
        if not request.any_tenant and instance.tenant_id != request.tenant_id:
            raise self._not_found(request.instance_id)
        key, content = (request.tenant_id, request.request_id), request.SerializeToString()
        if key in self._answers:
            earlier, operation_id = self._answers[key]
            if earlier != content:
                raise ConflictError("the request id was used", reason="REQUEST_ID_REUSED")
            return operation_id
        asked = request.WhichOneof("action")
        self._check_size(request.resize_volume.size_gib)
        if instance.status != "ACTIVE":
            raise ConflictError(
                f"Instance {instance.id} is not currently available for an action to be performed "
                f"(task status was {_TASKS[instance.status]}).",
                reason="INSTANCE_BUSY",
            )
        self._check_target(instance, request)
        self.begun.append(request)
        instance.status = _STATUSES.get(asked, "ACTIVE")
        operation_id = self._start(_KINDS.get(asked, asked), instance)
        self._answers[key] = content, operation_id
        return operation_id

    async def reset(self, instance_id: str) -> None:
        self._get(instance_id).status = "ACTIVE"

    async def force_delete(self, instance_id: str, request_id: str) -> str:
        instance = self._get(instance_id)
        if instance.status != "SHUTDOWN":
            instance.status = "SHUTDOWN"
            instance.operation_id = self._start("delete_instance", instance)
        return instance.operation_id

    def _check_size(self, size_gib: int) -> None:
        if size_gib > self._largest_gib:
            raise QuotaExceededError(
                f"Volume 'size' cannot exceed maximum of {self._largest_gib} GB, "
                f"{size_gib} cannot be accepted.",
                reason="VOLUME_TOO_LARGE",
            )

    def _check_target(
        self, instance: resources_pb2.InstanceView, request: pb2.BeginActionRequest
    ) -> None:
        size = request.resize_volume.size_gib
        if request.HasField("resize_volume") and size <= instance.volume_size_gib:
            raise InvalidRequestError(
                "The new volume 'size' must be larger than the current volume size of "
                f"'{instance.volume_size_gib}'.",
                reason="VOLUME_NOT_LARGER",
            )
        if request.resize_flavor.flavor.id == instance.flavor.id:
            raise InvalidRequestError(
                "The new flavor id must be different than the current flavor id of "
                f"'{instance.flavor.id}'.",
                reason="FLAVOR_UNCHANGED",
            )

    def _start(self, kind: str, instance: resources_pb2.InstanceView) -> str:
        operation = resources_pb2.Operation(
            id=str(uuid.uuid4()),
            kind=kind,
            tenant_id=instance.tenant_id,
            instance_id=instance.id,
            state=resources_pb2.OPERATION_STATE_RUNNING,
        )
        self._operations[operation.id] = operation
        return operation.id

    def _get(self, instance_id: str) -> resources_pb2.InstanceView:
        if instance_id not in self._instances:
            raise self._not_found(instance_id)
        return self._instances[instance_id]

    def _not_found(self, instance_id: str) -> NotFoundError:
        return NotFoundError(
            f"Resource {instance_id} cannot be found.", reason="INSTANCE_NOT_FOUND"
        )
