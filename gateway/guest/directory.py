"""What this gateway tells the conductor's session directory: its lease, sessions opened and ended.

Ended sessions wait in a queue of `closings_limit`; when it is full the newest is dropped and
counted: a later epoch or the guest's silence tells the conductor the same, only later.
"""

from __future__ import annotations

import asyncio
import logging

from gateway.guest import metrics
from trove_grpc import errors, process
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.conductor.v1 import report_service_pb2 as report_pb2
from trove_grpc.gen.conductor.v1 import report_service_pb2_grpc as report_rpc
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.identity import Identity

log = logging.getLogger(__name__)

_CLOSERS = 4
_DEFAULT_LEASE_SECONDS = 15.0
_LEAST_PAUSE_SECONDS = 0.2


class Directory:
    """The conductor's session directory, as one gateway uses it."""

    def __init__(
        self,
        conductor: PeerChannel,
        *,
        gateway_id: str,
        incarnation: str,
        openings: int,
        open_timeout: float,
        timeout: float,
        closings_limit: int,
    ) -> None:
        self._conductor = conductor
        self._gateway_id = gateway_id
        self._incarnation = incarnation
        self._slots = asyncio.Semaphore(openings)
        self._open_timeout = open_timeout
        self._timeout = timeout
        self._closings: asyncio.Queue[report_pb2.CloseSessionRequest] = asyncio.Queue(
            closings_limit
        )
        self._address = ""
        self._lease = _DEFAULT_LEASE_SECONDS
        self._renewed_at: float | None = None
        self._is_failing = False

    async def open(
        self, caller: Identity, hello: guest_pb2.Hello
    ) -> report_pb2.OpenSessionResponse:
        """Ask for a session epoch.

        Raises PermissionDeniedError with the conductor's reason for a guest it refuses, and
        UnavailableError while the conductor is away.
        """
        request = report_pb2.OpenSessionRequest(
            gateway_id=self._gateway_id,
            incarnation=self._incarnation,
            instance_id=caller.instance_id,
            tenant_id=caller.tenant_id,
            certificate_serial=caller.serial,
            boot_id=hello.boot_id,
            agent_version=hello.agent_version,
            observation=hello.observation,
        )
        try:
            async with asyncio.timeout(self._open_timeout), self._slots:
                stub = self._conductor.stub(report_rpc.ReportServiceStub)
                response: report_pb2.OpenSessionResponse = await call(
                    stub.OpenSession, request, timeout=self._timeout, retry=True
                )
        except (errors.NotFoundError, errors.ConflictError, errors.PermissionDeniedError) as error:
            raise errors.PermissionDeniedError(
                error.message, reason=error.reason, subject=caller.uri
            ) from error
        except (TimeoutError, errors.DeadlineError) as error:
            raise errors.UnavailableError(
                "the conductor does not answer; reconnect later", retry_after=5.0
            ) from error
        return response

    def close(self, instance_id: str, epoch: int, reason: str) -> None:
        """Note that a session ended; told to the conductor in the background."""
        try:
            self._closings.put_nowait(
                report_pb2.CloseSessionRequest(
                    instance_id=instance_id, session_epoch=epoch, reason=reason
                )
            )
        except asyncio.QueueFull:
            metrics.DROPPED.labels("session_closing").inc()

    async def announce(self, address: str) -> bool:
        """Announce this gateway and renew its lease; False when the conductor is away.

        `address` is where others dial the internal listener.
        """
        self._address = address
        stub = self._conductor.stub(report_rpc.ReportServiceStub)
        asked_at = asyncio.get_running_loop().time()
        try:
            response: report_pb2.RenewGatewayLeaseResponse = await call(
                stub.RenewGatewayLease,
                report_pb2.RenewGatewayLeaseRequest(
                    gateway_id=self._gateway_id, incarnation=self._incarnation, address=address
                ),
                timeout=self._timeout,
                retry=True,
            )
        except errors.TroveError as error:
            if not self._is_failing:
                log.warning("cannot renew the lease at the conductor: %s", error.message)
            self._is_failing = True
            return False
        self._is_failing = False
        if self._renewed_at is not None and asked_at - self._renewed_at > self._lease:
            # Our sessions count again from here on: they name this incarnation.
            log.warning("the lease had lapsed; no command could reach our guests")
        self._renewed_at = asked_at
        self._lease = response.lease.ToTimedelta().total_seconds() or _DEFAULT_LEASE_SECONDS
        return True

    async def keep_lease(self, stop: asyncio.Event) -> None:
        """Renew the lease at a third of its life until `stop`."""
        pause = 0.0 if self._renewed_at is None else self._lease / 3
        while not await process.wait_or_timeout(stop, pause):
            is_renewed = await self.announce(self._address)
            pause = max(_LEAST_PAUSE_SECONDS, self._lease / 3) if is_renewed else 1.0

    async def tell_closings(self, stop: asyncio.Event, grace: float) -> None:
        """Tell the conductor of ended sessions until `stop`, then what is left within `grace`."""
        async with asyncio.TaskGroup() as group:
            workers = [
                group.create_task(self._tell(), name=f"session-closer-{number}")
                for number in range(_CLOSERS)
            ]
            await stop.wait()
            try:
                async with asyncio.timeout(grace):
                    await self._closings.join()
            except TimeoutError:
                log.warning("%d ended sessions were not told", self._closings.qsize())
            for worker in workers:
                worker.cancel()

    async def _tell(self) -> None:
        while True:
            request = await self._closings.get()
            try:
                stub = self._conductor.stub(report_rpc.ReportServiceStub)
                await call(stub.CloseSession, request, timeout=self._timeout, retry=True)
            except errors.TroveError as error:
                metrics.DROPPED.labels("session_closing").inc()
                log.info("closing of %s not told: %s", request.instance_id, error.message)
            finally:
                self._closings.task_done()
