"""ManagementService: instances of every tenant, for administrators."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from conductor import views
from conductor.config import Config
from conductor.executor import Database
from conductor.presence import PresenceTable
from conductor.services import checks
from conductor.status import Task, derive_status
from conductor.store import instances
from conductor.store.instances import InstanceRecord
from conductor.words import describe_service_status, describe_task
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.conductor.v1 import management_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import management_service_pb2_grpc, resources_pb2

_IS_DELETED = {
    pb2.DELETED_FILTER_UNSPECIFIED: None,
    pb2.DELETED_FILTER_ONLY_DELETED: True,
    pb2.DELETED_FILTER_ONLY_LIVING: False,
}


class ManagementService(management_service_pb2_grpc.ManagementServiceServicer):
    """Reads only."""

    def __init__(
        self,
        *,
        config: Config,
        database: Database,
        presence: PresenceTable,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._config = config
        self._database = database
        self._presence = presence
        self._now = now

    async def ListManagedInstances(
        self, request: pb2.ListManagedInstancesRequest, _context: Any
    ) -> pb2.ListManagedInstancesResponse:
        if request.deleted not in _IS_DELETED:
            raise InvalidRequestError("deleted is not a known filter", subject="deleted")
        size = checks.page_size(request.page_size)
        records = await self._database.read(
            instances.list_managed_instances,
            tenant_id=checks.require_text(request.tenant_id, "tenant_id", may_be_empty=True),
            is_deleted=_IS_DELETED[request.deleted],
            offset=checks.require_range(request.offset, "offset", least=0),
            limit=size + 1,  # one more tells whether there is a next page
        )
        return pb2.ListManagedInstancesResponse(
            instances=[self._managed(record) for record in records[:size]],
            has_more=len(records) > size,
        )

    async def GetManagedInstance(
        self, request: pb2.GetManagedInstanceRequest, _context: Any
    ) -> pb2.GetManagedInstanceResponse:
        record = await self._database.read(
            instances.get_instance,
            instance_id=checks.require_text(request.instance_id, "instance_id"),
            include_deleted=request.include_deleted,
        )
        return pb2.GetManagedInstanceResponse(instance=self._managed(record))

    def _managed(self, record: InstanceRecord) -> pb2.ManagedInstance:
        instance, now = record.instance, self._now()
        view = views.instance_view(
            record,
            merge=self._presence.merge,
            presence_deadline=self._config.presence_deadline,
            now=now,
        )
        if instance.delete_time is not None:
            view.status, view.operating_status, view.operating_status_reason = "SHUTDOWN", "", ""
        word = self._service_status(view, is_deleted=instance.delete_time is not None, now=now)
        return pb2.ManagedInstance(
            instance=view,
            task=instance.task,
            task_description=describe_task(instance.task),
            service_status=word,
            service_status_description=describe_service_status(word),
            compute_id=instance.compute_id,
            delete_time=views.timestamp(instance.delete_time),
        )

    def _service_status(
        self, view: resources_pb2.InstanceView, *, is_deleted: bool, now: dt.datetime
    ) -> str:
        """What the agent last said, in Trove's word, whatever the control plane is doing."""
        if is_deleted:
            return "DELETED"
        if not view.HasField("last_report_time"):
            return "NEW"
        reported = view.last_report_time.ToDatetime(dt.UTC)
        return derive_status(
            task=Task.NONE,
            observation=view.observation,
            silence=now - reported,
            presence_deadline=self._config.presence_deadline,
        ).operating_status
