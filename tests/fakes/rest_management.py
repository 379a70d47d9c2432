"""Every project's instances in memory, over the instances of a fake control plane."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from trove_grpc.errors import NotFoundError
from trove_grpc.gen.conductor.v1 import management_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import resources_pb2

_TASKS = {
    "BUILD": ("BUILDING", "The instance is building."),
    "SHUTDOWN": ("DELETING", "Deleting the instance."),
}


class FakeManagement:
    """Newest first is the last one put in; `deleted` holds what is gone."""

    def __init__(self, instances: Mapping[str, resources_pb2.InstanceView]) -> None:
        self._instances = instances
        self.deleted: dict[str, resources_pb2.InstanceView] = {}

    async def list_instances(
        self, request: pb2.ListManagedInstancesRequest
    ) -> pb2.ListManagedInstancesResponse:
        wanted = [
            self._managed(item)
            for item in [*reversed(self._instances.values()), *self.deleted.values()]
            if request.tenant_id in ("", item.tenant_id)
        ]
        if request.deleted != pb2.DELETED_FILTER_UNSPECIFIED:
            is_deleted = request.deleted == pb2.DELETED_FILTER_ONLY_DELETED
            wanted = [item for item in wanted if item.HasField("delete_time") == is_deleted]
        end = request.offset + request.page_size
        return pb2.ListManagedInstancesResponse(
            instances=wanted[request.offset : end], has_more=len(wanted) > end
        )

    async def get_instance(
        self, instance_id: str, *, include_deleted: bool
    ) -> pb2.ManagedInstance:
        found = self._instances.get(instance_id)
        if found is None and include_deleted:
            found = self.deleted.get(instance_id)
        if found is None:
            raise NotFoundError(
                f"Resource {instance_id} cannot be found.", reason="INSTANCE_NOT_FOUND"
            )
        return self._managed(found)

    def _managed(self, instance: resources_pb2.InstanceView) -> pb2.ManagedInstance:
        task, description = _TASKS.get(instance.status, ("NONE", "No tasks for the instance."))
        word = instance.operating_status or "NEW"
        managed = pb2.ManagedInstance(
            instance=instance,
            task=task,
            task_description=description,
            service_status=word,
            service_status_description=word.lower(),
            compute_id=f"srv-{instance.id}" if instance.addresses else "",
        )
        if instance.id in self.deleted:
            now = Timestamp()
            now.GetCurrentTime()
            managed.delete_time.CopyFrom(now)
        return managed
