"""Slices of tenants' rates, as the REST API asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from gateway.rest.peers import call_peer
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.conductor.v1 import rate_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import rate_service_pb2_grpc

# Requests wait for this before anything is done for them, seconds.
_LEASE_SECONDS = 1.0


class Rates(Protocol):
    """All raise `trove_grpc.errors`."""

    async def lease(self, request: pb2.LeaseRateRequest) -> pb2.LeaseRateResponse: ...

    async def list_rates(self, tenant_id: str) -> Sequence[pb2.Rate]:
        """Every rate; what API processes hold is not among what remains."""


class GrpcRates:
    """Asks the conductor; both calls are idempotent: retried."""

    def __init__(self, conductor: PeerChannel) -> None:
        self._conductor = conductor

    async def lease(self, request: pb2.LeaseRateRequest) -> pb2.LeaseRateResponse:
        response = await call(self._stub().LeaseRate, request, timeout=_LEASE_SECONDS, retry=True)
        return cast(pb2.LeaseRateResponse, response)

    async def list_rates(self, tenant_id: str) -> Sequence[pb2.Rate]:
        request = pb2.ListRatesRequest(tenant_id=tenant_id)
        response = await call_peer(self._stub().ListRates, request)
        return cast(Sequence[pb2.Rate], response.rates)

    def _stub(self) -> rate_service_pb2_grpc.RateServiceStub:
        return self._conductor.stub(rate_service_pb2_grpc.RateServiceStub)
