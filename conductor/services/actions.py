"""ActionService: what is done to an instance that exists."""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections.abc import Callable
from typing import Any

from conductor.config import Config
from conductor.executor import Database
from conductor.models import Operation
from conductor.services import checks
from conductor.store import actions, instances, requests, settlement
from conductor.store.actions import Action
from conductor.store.requests import RequestId
from trove_grpc import context
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.conductor.v1 import action_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import action_service_pb2_grpc, resources_pb2

log = logging.getLogger(__name__)

_KINDS = {
    "restart": actions.RESTART_INSTANCE,
    "stop": actions.STOP_INSTANCE,
    "resize_volume": actions.RESIZE_VOLUME,
    "resize_flavor": actions.RESIZE_FLAVOR,
}


class ActionService(action_service_pb2_grpc.ActionServiceServicer):
    """Writes operations; the task manager carries them out."""

    def __init__(
        self, *, config: Config, database: Database, now: Callable[[], dt.datetime]
    ) -> None:
        self._config = config
        self._database = database
        self._now = now

    async def BeginAction(
        self, request: pb2.BeginActionRequest, _context: Any
    ) -> pb2.BeginActionResponse:
        action = self._action(request)
        operation = self._operation(action.kind, request.instance_id, request.request_id)
        operation_id = await self._database.write(
            actions.begin_action,
            action,
            operation,
            quota_defaults=self._config.quotas,
            now=operation.create_time,
        )
        with context.bound(instance=operation.instance_id, operation=operation_id):
            log.info("%s accepted for %s", action.kind, request.tenant_id)
        return pb2.BeginActionResponse(operation_id=operation_id)

    async def ResetInstance(
        self, request: pb2.ResetInstanceRequest, _context: Any
    ) -> pb2.ResetInstanceResponse:
        instance_id = checks.lookup_key(request.instance_id)
        await self._database.write(
            actions.reset_instance, instance_id=instance_id, now=self._now()
        )
        with context.bound(instance=instance_id):
            log.info("status reset by an administrator")
        return pb2.ResetInstanceResponse()

    async def ForceDeleteInstance(
        self, request: pb2.ForceDeleteInstanceRequest, _context: Any
    ) -> pb2.ForceDeleteInstanceResponse:
        operation = self._operation(
            settlement.DELETE_INSTANCE, request.instance_id, request.request_id
        )
        operation_id = await self._database.write(
            instances.begin_delete, operation, now=operation.create_time, is_forced=True
        )
        with context.bound(instance=operation.instance_id, operation=operation_id):
            log.info("delete_instance forced by an administrator")
        return pb2.ForceDeleteInstanceResponse(operation_id=operation_id)

    def _action(self, request: pb2.BeginActionRequest) -> Action:
        asked = request.WhichOneof("action")
        if asked is None:
            raise InvalidRequestError("action is required", subject="action")
        return Action(
            kind=_KINDS[asked],
            request=RequestId(
                tenant_id=checks.require_tenant(request.tenant_id),
                id=checks.require_text(request.request_id, "request_id", may_be_empty=True),
                fingerprint=requests.fingerprint(
                    "begin_action", request.SerializeToString(deterministic=True)
                ),
            ),
            any_tenant=request.any_tenant,
            target=self._target(request, asked),
        )

    def _target(self, request: pb2.BeginActionRequest, asked: str) -> dict[str, str | int]:
        if asked == "resize_volume":
            size = request.resize_volume.size_gib
            checks.require_range(size, "resize_volume.size_gib", least=1)
            checks.require_volume_at_most(size, self._config.max_volume_size)
            return {"volume_size_gib": size}
        if asked == "resize_flavor":
            return _flavor_target(request.resize_flavor.flavor)
        return {}

    def _operation(self, kind: str, instance_id: str, request_id: str) -> Operation:
        """An operation whose tenant is found with its instance."""
        return Operation(
            id=str(uuid.uuid4()),
            kind=kind,
            tenant_id="",
            instance_id=checks.lookup_key(instance_id),
            state="PENDING",
            # The id in every hop's log is worth more here than the caller's idempotency key.
            request_id=context.request_id() or checks.lookup_key(request_id),
            create_time=self._now(),
        )


def _flavor_target(flavor: resources_pb2.Flavor) -> dict[str, str | int]:
    checks.check_flavor(flavor)
    return {
        "flavor_id": flavor.id,
        "flavor_name": flavor.name,
        "flavor_ram_mib": flavor.ram_mib,
        "flavor_vcpus": flavor.vcpus,
        "flavor_disk_gib": flavor.disk_gib,
    }
