"""Limits in memory; tests/integration/gateway_rest holds it to the conductor's contract."""

from __future__ import annotations

from collections.abc import Mapping

from trove_grpc.errors import InvalidRequestError, NotFoundError


class FakeQuotas:
    """Limits of each tenant above those of all."""

    def __init__(self, defaults: Mapping[str, int]) -> None:
        self._defaults = defaults
        self._own: dict[str, dict[str, int]] = {}

    def of(self, tenant_id: str) -> dict[str, int]:
        return dict(self._defaults) | self._own.get(tenant_id, {})

    async def set_limits(self, tenant_id: str, limits: Mapping[str, int]) -> None:
        if not limits:
            raise InvalidRequestError("limits must name at least one resource, and each once")
        if unknown := sorted(set(limits) - set(self._defaults)):
            raise NotFoundError(
                f"Unknown quota resources {', '.join(unknown)}.", reason="QUOTA_RESOURCE_UNKNOWN"
            )
        for resource, limit in limits.items():
            if limit < -1:
                raise InvalidRequestError(
                    f"Quota limit '{limit}' for '{resource}' is too small - must be at least '-1'."
                )
        self._own.setdefault(tenant_id, {}).update(limits)
