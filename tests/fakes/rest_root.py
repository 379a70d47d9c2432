"""Who was let in as root, in memory; tests/integration/gateway_rest holds it to its contract."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from trove_grpc.errors import NotFoundError
from trove_grpc.gen.conductor.v1 import resources_pb2, root_service_pb2


class FakeRootHistory:
    """One enabling for each instance, the last."""

    def __init__(self, instances: Mapping[str, resources_pb2.InstanceView]) -> None:
        self._instances = instances
        self._last: dict[str, root_service_pb2.GetRootHistoryResponse] = {}
        self._enabled: set[str] = set()

    async def record_enabled(self, tenant_id: str, instance_id: str, user_id: str) -> bool:
        self._check(tenant_id, instance_id)
        if instance_id in self._enabled:
            return True
        now = Timestamp()
        now.GetCurrentTime()
        self._last[instance_id] = root_service_pb2.GetRootHistoryResponse(
            user_id=user_id, enable_time=now
        )
        self._enabled.add(instance_id)
        return False

    async def record_disabled(self, tenant_id: str, instance_id: str) -> None:
        self._check(tenant_id, instance_id)
        if instance_id not in self._enabled:
            raise NotFoundError(
                "Root user has never been enabled on the instance.", reason="ROOT_NEVER_ENABLED"
            )
        self._enabled.discard(instance_id)

    async def is_enabled(self, tenant_id: str, instance_id: str) -> bool:
        self._check(tenant_id, instance_id)
        return instance_id in self._enabled

    async def last_enabling(self, instance_id: str) -> root_service_pb2.GetRootHistoryResponse:
        if instance_id not in self._instances:
            raise NotFoundError(
                f"Resource {instance_id} cannot be found.", reason="INSTANCE_NOT_FOUND"
            )
        return self._last.get(instance_id, root_service_pb2.GetRootHistoryResponse())

    def _check(self, tenant_id: str, instance_id: str) -> None:
        instance = self._instances.get(instance_id)
        if instance is None or instance.tenant_id != tenant_id:
            raise NotFoundError(
                f"Resource {instance_id} cannot be found.", reason="INSTANCE_NOT_FOUND"
            )
