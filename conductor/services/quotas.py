"""QuotaService: limits of tenants, set by administrators."""

from __future__ import annotations

import logging
from typing import Any

from conductor import views
from conductor.config import Quotas
from conductor.executor import Database
from conductor.services import checks
from conductor.store import quotas
from trove_grpc.errors import InvalidRequestError, NotFoundError
from trove_grpc.gen.conductor.v1 import quota_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import quota_service_pb2_grpc

log = logging.getLogger(__name__)


class QuotaService(quota_service_pb2_grpc.QuotaServiceServicer):
    """Who may set limits is REST's to say: only administrators' requests come here."""

    def __init__(self, *, defaults: Quotas, database: Database) -> None:
        self._defaults = defaults
        self._database = database

    async def UpdateQuota(
        self, request: pb2.UpdateQuotaRequest, _context: Any
    ) -> pb2.UpdateQuotaResponse:
        limits = _limits(request)
        usages = await self._database.write(
            quotas.set_limits,
            tenant_id=checks.require_tenant(request.tenant_id),
            limits=limits,
            defaults=self._defaults,
        )
        log.info("limits of %s set: %s", request.tenant_id, limits)
        return pb2.UpdateQuotaResponse(resources=[views.quota_message(usage) for usage in usages])


def _limits(request: pb2.UpdateQuotaRequest) -> dict[str, int]:
    """Trove's words where it has some: clients show them."""
    limits = {item.resource: item.limit for item in request.limits}
    if not limits or len(limits) < len(request.limits):
        raise InvalidRequestError(
            "limits must name at least one resource, and each once", subject="limits"
        )
    if unknown := sorted(set(limits) - set(quotas.RESOURCES)):
        raise NotFoundError(
            f"Unknown quota resources {', '.join(unknown)}.",
            reason="QUOTA_RESOURCE_UNKNOWN",
            subject=",".join(unknown),
        )
    for resource, limit in limits.items():
        if limit < quotas.UNLIMITED:
            raise InvalidRequestError(
                f"Quota limit '{limit}' for '{resource}' is too small - "
                f"must be at least '{quotas.UNLIMITED}'.",
                subject=resource,
            )
    return limits
