"""RootService: what is known of engines' superusers."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from typing import Any

from conductor.executor import Database
from conductor.presence import clean
from conductor.services import checks
from conductor.store import root_history
from conductor.views import timestamp
from trove_grpc import context
from trove_grpc.gen.conductor.v1 import root_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import root_service_pb2_grpc

log = logging.getLogger(__name__)


class RootService(root_service_pb2_grpc.RootServiceServicer):
    """Records and tells; what is done to the engine is its agent's."""

    def __init__(self, *, database: Database, now: Callable[[], dt.datetime]) -> None:
        self._database = database
        self._now = now

    async def RecordRootEnabled(
        self, request: pb2.RecordRootEnabledRequest, _context: Any
    ) -> pb2.RecordRootEnabledResponse:
        instance_id = clean(request.instance_id, 36)
        was_enabled = await self._database.write(
            root_history.record_enabled,
            tenant_id=checks.require_tenant(request.tenant_id),
            instance_id=instance_id,
            user_id=checks.require_text(request.user_id, "user_id"),
            now=self._now(),
        )
        with context.bound(instance=instance_id):
            log.info("root is enabled by %s of %s", request.user_id, request.tenant_id)
        return pb2.RecordRootEnabledResponse(was_enabled=was_enabled)

    async def RecordRootDisabled(
        self, request: pb2.RecordRootDisabledRequest, _context: Any
    ) -> pb2.RecordRootDisabledResponse:
        instance_id = clean(request.instance_id, 36)
        await self._database.write(
            root_history.record_disabled,
            tenant_id=checks.require_tenant(request.tenant_id),
            instance_id=instance_id,
            now=self._now(),
        )
        with context.bound(instance=instance_id):
            log.info("root is disabled by %s", request.tenant_id)
        return pb2.RecordRootDisabledResponse()

    async def GetRoot(self, request: pb2.GetRootRequest, _context: Any) -> pb2.GetRootResponse:
        is_enabled = await self._database.read(
            root_history.is_enabled,
            tenant_id=checks.require_tenant(request.tenant_id),
            instance_id=clean(request.instance_id, 36),
        )
        return pb2.GetRootResponse(is_enabled=is_enabled)

    async def GetRootHistory(
        self, request: pb2.GetRootHistoryRequest, _context: Any
    ) -> pb2.GetRootHistoryResponse:
        row = await self._database.read(
            root_history.last_enabling, instance_id=clean(request.instance_id, 36)
        )
        if row is None:
            return pb2.GetRootHistoryResponse()
        return pb2.GetRootHistoryResponse(
            user_id=row.user_id, enable_time=timestamp(row.enable_time)
        )
