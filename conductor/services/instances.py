"""InstanceService: one RPC for each REST request about instances."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import uuid
from collections.abc import Callable
from typing import Any

from conductor import views
from conductor.config import Config
from conductor.executor import Database
from conductor.models import Operation
from conductor.presence import PresenceTable
from conductor.sealing import Sealer
from conductor.services import checks
from conductor.store import configurations, instances, operations, quotas, settlement
from conductor.store.instances import InstanceRecord, NewInstance
from trove_grpc import context
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.conductor.v1 import (
    instance_service_pb2 as pb2,
)
from trove_grpc.gen.conductor.v1 import (
    instance_service_pb2_grpc,
    operation_service_pb2,
    resources_pb2,
)

log = logging.getLogger(__name__)

_MOST_ROW_VERSIONS = 100


class InstanceService(instance_service_pb2_grpc.InstanceServiceServicer):
    """Answers from the database, with presence as this process knows it."""

    def __init__(
        self,
        *,
        config: Config,
        database: Database,
        presence: PresenceTable,
        sealer: Sealer,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._config = config
        self._database = database
        self._presence = presence
        self._sealer = sealer
        self._now = now

    async def CreateInstance(
        self, request: pb2.CreateInstanceRequest, _context: Any
    ) -> pb2.CreateInstanceResponse:
        checks.check_create(request)
        checks.require_volume_at_most(request.volume_size_gib, self._config.max_volume_size)
        operation = self._operation(
            settlement.CREATE_INSTANCE, request.tenant_id, str(uuid.uuid4()), request.request_id
        )
        record, operation_id = await self._database.write(
            configurations.create_instance,
            _new_instance(request),
            checks.require_text(request.configuration_id, "configuration_id", may_be_empty=True),
            operation=operation,
            sealed_secrets=self._seal(request, operation.id),
            quota_defaults=self._config.quotas,
            default_datastore=self._config.default_datastore,
            now=operation.create_time,
        )
        with context.bound(instance=record.instance.id, operation=operation_id):
            log.info("create_instance accepted for %s", request.tenant_id)
        return pb2.CreateInstanceResponse(instance=self._view(record), operation_id=operation_id)

    async def GetInstanceView(
        self, request: pb2.GetInstanceViewRequest, _context: Any
    ) -> pb2.GetInstanceViewResponse:
        record = await self._database.read(
            instances.get_instance,
            instance_id=checks.lookup_key(request.instance_id),
            tenant_id=request.tenant_id,
        )
        return pb2.GetInstanceViewResponse(instance=self._view(record))

    async def ListInstanceViews(
        self, request: pb2.ListInstanceViewsRequest, _context: Any
    ) -> pb2.ListInstanceViewsResponse:
        size = checks.page_size(request.page_size)
        records = await self._database.read(
            instances.list_instances,
            tenant_id=checks.lookup_key(request.tenant_id),
            after=checks.lookup_key(request.page_token),
            limit=size + 1,  # one more tells whether there is a next page
        )
        page = records[:size]
        return pb2.ListInstanceViewsResponse(
            instances=[self._view(record) for record in page],
            next_page_token=page[-1].instance.id if len(records) > size else "",
        )

    async def UpdateInstance(
        self, request: pb2.UpdateInstanceRequest, _context: Any
    ) -> pb2.UpdateInstanceResponse:
        record = await self._database.write(
            instances.update_instance,
            tenant_id=checks.require_tenant(request.tenant_id),
            instance_id=checks.lookup_key(request.instance_id),
            name=checks.require_text(request.name, "name", may_be_empty=True),
            deletion_protection=(
                request.deletion_protection if request.HasField("deletion_protection") else None
            ),
            expected_row_versions=_row_versions(request),
            now=self._now(),
        )
        return pb2.UpdateInstanceResponse(instance=self._view(record))

    async def DeleteInstance(
        self, request: pb2.DeleteInstanceRequest, _context: Any
    ) -> pb2.DeleteInstanceResponse:
        operation = self._operation(
            settlement.DELETE_INSTANCE,
            checks.require_tenant(request.tenant_id),
            checks.lookup_key(request.instance_id),
            checks.require_text(request.request_id, "request_id", may_be_empty=True),
        )
        operation_id = await self._database.write(
            instances.begin_delete,
            operation,
            request_id=request.request_id,
            expected_row_versions=_row_versions(request),
            now=operation.create_time,
        )
        with context.bound(
            instance=checks.lookup_key(request.instance_id), operation=operation_id
        ):
            log.info("delete_instance accepted for %s", request.tenant_id)
        return pb2.DeleteInstanceResponse(operation_id=operation_id)

    async def GetOperation(
        self, request: pb2.GetOperationRequest, _context: Any
    ) -> pb2.GetOperationResponse:
        record = await self._database.read(
            operations.get_operation,
            operation_id=checks.lookup_key(request.operation_id),
            tenant_id=request.tenant_id,
        )
        return pb2.GetOperationResponse(operation=views.operation_message(record))

    async def ListOperations(
        self, request: pb2.ListOperationsRequest, _context: Any
    ) -> pb2.ListOperationsResponse:
        size = checks.page_size(request.page_size)
        token = request.page_token
        records = await self._database.read(
            operations.list_operations,
            tenant_id=checks.lookup_key(request.tenant_id),
            instance_id=checks.lookup_key(request.instance_id),
            after=operations.Place.parse(checks.lookup_key(token)) if token else None,
            limit=size + 1,
        )
        return pb2.ListOperationsResponse(
            operations=[views.operation_message(record) for record in records[:size]],
            next_page_token=operations.next_place(records, size),
        )

    async def GetQuota(self, request: pb2.GetQuotaRequest, _context: Any) -> pb2.GetQuotaResponse:
        usages = await self._database.read(
            quotas.read_usages,
            tenant_id=checks.require_tenant(request.tenant_id),
            defaults=self._config.quotas,
        )
        return pb2.GetQuotaResponse(resources=[views.quota_message(usage) for usage in usages])

    def _view(self, record: InstanceRecord) -> resources_pb2.InstanceView:
        return views.instance_view(
            record,
            merge=self._presence.merge,
            presence_deadline=self._config.presence_deadline,
            now=self._now(),
        )

    def _operation(
        self, kind: str, tenant_id: str, instance_id: str, request_id: str
    ) -> Operation:
        return Operation(
            id=str(uuid.uuid4()),
            kind=kind,
            tenant_id=tenant_id,
            instance_id=instance_id,
            state="PENDING",
            # The id in every hop's log is worth more here than the caller's idempotency key.
            request_id=context.request_id() or request_id,
            create_time=self._now(),
        )

    def _seal(self, request: pb2.CreateInstanceRequest, operation_id: str) -> bytes:
        if not request.users:
            return b""
        secrets = operation_service_pb2.GetOperationSecretsResponse(users=request.users)
        return self._sealer.seal(secrets.SerializeToString(), record_id=operation_id)


def _new_instance(request: pb2.CreateInstanceRequest) -> NewInstance:
    return NewInstance(
        tenant_id=request.tenant_id,
        request_id=request.request_id,
        fingerprint=_fingerprint(request),
        name=request.name,
        datastore=request.datastore,
        datastore_version=request.datastore_version,
        flavor_id=request.flavor.id,
        flavor_name=request.flavor.name,
        flavor_ram_mib=request.flavor.ram_mib,
        flavor_vcpus=request.flavor.vcpus,
        flavor_disk_gib=request.flavor.disk_gib,
        volume_size_gib=request.volume_size_gib,
        volume_type=request.volume_type,
        region=request.region,
        availability_zone=request.availability_zone,
        is_public=request.access.is_public,
        allowed_cidrs=list(request.access.allowed_cidrs),
        deletion_protection=request.deletion_protection,
        databases=[
            {
                "name": item.name,
                "character_set": item.character_set,
                "collation": item.collation,
            }
            for item in request.databases
        ],
    )


def _row_versions(request: pb2.UpdateInstanceRequest | pb2.DeleteInstanceRequest) -> set[int]:
    if len(request.expected_row_versions) > _MOST_ROW_VERSIONS:
        raise InvalidRequestError(
            f"expected_row_versions has more than {_MOST_ROW_VERSIONS} items",
            subject="expected_row_versions",
        )
    return set(request.expected_row_versions)


def _fingerprint(request: pb2.CreateInstanceRequest) -> str:
    """Hash of what is asked for, without verifiers: a repeat from REST salts them anew."""
    copy = pb2.CreateInstanceRequest()
    copy.CopyFrom(request)
    for user in copy.users:
        user.ClearField("verifier")
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).hexdigest()
