"""Limits of tenants, as the REST API sets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gateway.rest.peers import call_peer
from trove_grpc.client import PeerChannel
from trove_grpc.gen.conductor.v1 import quota_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import quota_service_pb2_grpc


class Quotas(Protocol):
    """Raises `trove_grpc.errors`."""

    async def set_limits(self, tenant_id: str, limits: Mapping[str, int]) -> None:
        """Resources not named keep theirs; NotFoundError for one that does not exist."""


class GrpcQuotas:
    """Asks the conductor; idempotent: retried."""

    def __init__(self, conductor: PeerChannel) -> None:
        self._conductor = conductor

    async def set_limits(self, tenant_id: str, limits: Mapping[str, int]) -> None:
        request = pb2.UpdateQuotaRequest(
            tenant_id=tenant_id,
            limits=[
                pb2.QuotaLimit(resource=resource, limit=limit)
                for resource, limit in limits.items()
            ],
        )
        stub = self._conductor.stub(quota_service_pb2_grpc.QuotaServiceStub)
        await call_peer(stub.UpdateQuota, request)
