"""A conductor that keeps its reports in lists: ReportService over real mutual TLS."""

from __future__ import annotations

import asyncio
from typing import Any

from trove_grpc import errors
from trove_grpc.gen.conductor.v1 import report_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import report_service_pb2_grpc as rpc
from trove_grpc.server import Server, build_internal_server
from trove_grpc.tls import IdentityDirectory


class FakeConductor(rpc.ReportServiceServicer):
    """Grants epochs to the instances it was told of; commits in memory, survives its restart."""

    def __init__(self, identity: IdentityDirectory) -> None:
        self.identity = identity
        self.port = 0
        self.tenants: dict[str, str] = {}
        self.retired: set[str] = set()
        self.is_committing = True  # False: changes are received and not acknowledged
        self.refusals: dict[str, str] = {}  # report id -> why it will never be applied
        self.lease_seconds = 15
        self.leases: list[pb2.RenewGatewayLeaseRequest] = []
        self.opened: list[pb2.OpenSessionRequest] = []
        self.lets_open = asyncio.Event()  # cleared: sessions are granted only when it is set
        self.lets_open.set()
        self.closed: list[pb2.CloseSessionRequest] = []
        self.batches: list[pb2.ReportRequest] = []
        self.committed: list[str] = []
        self._epoch = 0
        self._server: Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def reports(self) -> list[pb2.GuestReport]:
        return [report for batch in self.batches for report in batch.reports]

    async def start(self) -> None:
        """Listen; after `stop` on the same port again."""
        self._server = build_internal_server(
            f"127.0.0.1:{self.port}",
            identity=self.identity,
            register=lambda server: rpc.add_ReportServiceServicer_to_server(self, server),
            services=["trove.conductor.v1.ReportService"],
        )
        self.port = self._server.port
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(0)

    async def RenewGatewayLease(self, request: Any, context: Any) -> Any:
        self.leases.append(request)
        response = pb2.RenewGatewayLeaseResponse()
        response.lease.FromSeconds(self.lease_seconds)
        return response

    async def OpenSession(self, request: Any, context: Any) -> Any:
        tenant = self.tenants.get(request.instance_id)
        if request.instance_id in self.retired:
            raise errors.ConflictError("the instance is deleted", reason="INSTANCE_RETIRED")
        if tenant is None:
            raise errors.NotFoundError("no such instance", reason="UNKNOWN_INSTANCE")
        if tenant != request.tenant_id:
            raise errors.PermissionDeniedError("another tenant's", reason="TENANT_MISMATCH")
        self.opened.append(request)
        await self.lets_open.wait()
        self._epoch += 1
        response = pb2.OpenSessionResponse(session_epoch=self._epoch)
        response.heartbeat_interval.FromSeconds(10)
        return response

    async def CloseSession(self, request: Any, context: Any) -> Any:
        self.closed.append(request)
        return pb2.CloseSessionResponse()

    async def Report(self, request_iterator: Any, context: Any) -> None:
        # Read and written by hand: an idle generator would be closed by a stop only at its end.
        while True:
            batch = await context.read()
            if not isinstance(batch, pb2.ReportRequest):
                return
            self.batches.append(batch)
            response = pb2.ReportResponse()
            for report in batch.reports:
                kind = report.WhichOneof("report")
                if kind == "heartbeat" or not self.is_committing:
                    continue
                report_id = (
                    report.change.change_id if kind == "change" else report.backup_update.update_id
                )
                refusal = self.refusals.get(report_id, "")
                if not refusal and report_id not in self.committed:
                    self.committed.append(report_id)
                response.acknowledgements.add(
                    instance_id=report.instance_id,
                    session_epoch=report.session_epoch,
                    id=report_id,
                    refusal_reason=refusal,
                )
            if response.acknowledgements:
                await context.write(response)


async def until(condition: Any, *, seconds: float = 10.0) -> None:
    """Poll `condition` to a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  what is waited for sets no event
            await asyncio.sleep(0.01)
