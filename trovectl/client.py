"""What trovectl's commands ask: the supervisor's socket and, as an operator, the conductor."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from trove_grpc.client import PeerChannel, call, open_local_channel
from trove_grpc.errors import NotFoundError, UnavailableError
from trove_grpc.gen.conductor.v1 import (
    instance_service_pb2,
    instance_service_pb2_grpc,
    operation_service_pb2,
    operation_service_pb2_grpc,
    resources_pb2,
)
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2 as supervisor
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2_grpc as supervisor_grpc
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory
from trovectl import lock
from trovectl.layout import Layout

_TIMEOUT = 5.0
_PAGE = 100


class Installation:
    """A running `trovectl up`, seen from another process."""

    def __init__(self, state: Path) -> None:
        self._places = Layout(state)

    def require_running(self) -> int:
        """The supervisor's pid; raises UnavailableError that says how to start it."""
        pid = lock.holder_of(self._places.lock)
        if pid == 0:
            raise UnavailableError(
                f"nothing runs in {self._places.state}; start it with "
                f"`trovectl up --state-dir {self._places.state}`",
                reason="NOT_RUNNING",
            )
        return pid

    async def processes(self) -> Sequence[supervisor.Process]:
        async with self._supervisor() as stub:
            answer = await call(
                stub.ListProcesses, supervisor.ListProcessesRequest(), timeout=_TIMEOUT
            )
            found: Sequence[supervisor.Process] = answer.processes
            return found

    async def guests(self) -> Sequence[supervisor.Guest]:
        async with self._supervisor() as stub:
            answer = await call(stub.ListGuests, supervisor.ListGuestsRequest(), timeout=_TIMEOUT)
            found: Sequence[supervisor.Guest] = answer.guests
            return found

    async def instances(self) -> list[resources_pb2.InstanceView]:
        """Every tenant's instances."""
        found: list[resources_pb2.InstanceView] = []
        token = ""
        async with self._conductor() as stub:
            while True:
                request = instance_service_pb2.ListInstanceViewsRequest(
                    page_size=_PAGE, page_token=token
                )
                page = await call(stub.ListInstanceViews, request, timeout=_TIMEOUT, retry=True)
                found.extend(page.instances)
                token = page.next_page_token
                if not token:
                    return found

    async def instance(self, name_or_id: str) -> resources_pb2.InstanceView:
        """The instance with this id or name; raises NotFoundError, also when several match."""
        matches = [
            instance
            for instance in await self.instances()
            if name_or_id in (instance.id, instance.name)
        ]
        exact = [instance for instance in matches if instance.id == name_or_id]
        if exact:
            return exact[0]
        if not matches:
            raise NotFoundError(
                f"there is no instance {name_or_id!r}; `trovectl status` lists them"
            )
        if len(matches) > 1:
            ids = ", ".join(instance.id for instance in matches)
            raise NotFoundError(f"several instances are named {name_or_id!r}: {ids}; use the id")
        return matches[0]

    async def operations(self, instance_id: str) -> Sequence[resources_pb2.Operation]:
        """The instance's operations with their steps, newest first."""
        request = instance_service_pb2.ListOperationsRequest(
            instance_id=instance_id, page_size=_PAGE
        )
        async with self._conductor() as stub:
            answer = await call(stub.ListOperations, request, timeout=_TIMEOUT, retry=True)
            found: Sequence[resources_pb2.Operation] = answer.operations
            return found

    @contextlib.asynccontextmanager
    async def _supervisor(self) -> AsyncIterator[supervisor_grpc.SupervisorServiceAsyncStub]:
        self.require_running()
        async with open_local_channel(self._places.supervisor_socket) as channel:
            yield supervisor_grpc.SupervisorServiceStub(channel)

    async def open_operations(self) -> list[resources_pb2.Operation]:
        """Every operation that has not ended, oldest first."""
        found: list[resources_pb2.Operation] = []
        request = operation_service_pb2.ListOpenOperationsRequest(page_size=_PAGE)
        async with self._conductor_channel() as channel:
            stub = channel.stub(operation_service_pb2_grpc.OperationServiceStub)
            while True:
                page = await call(stub.ListOpenOperations, request, timeout=_TIMEOUT, retry=True)
                found.extend(page.operations)
                request.page_token = page.next_page_token
                if not request.page_token:
                    return found

    @contextlib.asynccontextmanager
    async def _conductor(
        self,
    ) -> AsyncIterator[instance_service_pb2_grpc.InstanceServiceAsyncStub]:
        async with self._conductor_channel() as channel:
            yield channel.stub(instance_service_pb2_grpc.InstanceServiceStub)  # type: ignore[misc]

    @contextlib.asynccontextmanager
    async def _conductor_channel(self) -> AsyncIterator[PeerChannel]:
        endpoints = {
            process.name: dict(pair.split("=", 1) for pair in process.endpoints)
            for process in await self.processes()
        }
        async with PeerChannel(
            [endpoints["conductor"]["conductor"]],
            identity=IdentityDirectory(self._places.operator),
            server_role=Role.CONDUCTOR,
        ) as channel:
            yield channel
