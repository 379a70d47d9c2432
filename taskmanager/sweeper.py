"""The guarantee behind Wake: open operations compared with flows, again and again.

Looks at what is, never at what was missed: an operation without a flow gets one, a broken flow
makes its operation STUCK, and a delete ends what still builds the same instance.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from taskmanager import metrics
from taskmanager.flows import FlowState, FlowStatus
from taskmanager.operations import OPEN
from taskmanager.peers import ConductorClient
from trove_grpc import context
from trove_grpc.errors import TroveError
from trove_grpc.gen.conductor.v1 import resources_pb2

log = logging.getLogger(__name__)

_DELETE = "delete_instance"
_DROP_INTERVAL = dt.timedelta(hours=1)


class FlowLog(Protocol):
    """What the sweeper and Wake ask of the flows."""

    async def submit(self, name: str, flow_id: str, *, key: str) -> None: ...

    def request_cancel(self, flow_id: str) -> None: ...

    async def list(self, flow_ids: Collection[str]) -> dict[str, FlowStatus]: ...

    async def drop_finished(self, before: str) -> int: ...


class Sweeper:
    """Compares the conductor's open operations with the flow log."""

    def __init__(
        self,
        conductor: ConductorClient,
        flows: FlowLog,
        *,
        kinds: Collection[str],
        interval: dt.timedelta,
        retention: dt.timedelta,
    ) -> None:
        self._conductor = conductor
        self._flows = flows
        self._kinds = frozenset(kinds)
        self._interval = interval.total_seconds()
        self._retention = retention
        self._next_drop = dt.datetime.min.replace(tzinfo=dt.UTC)

    async def run(self) -> None:
        """Sweep until cancelled; a conductor that is away is asked again next time."""
        while True:
            try:
                with context.bound(request_id=context.new_request_id()):
                    await self.sweep()
                    await self._drop_old()
                metrics.SWEEPS.labels("done").inc()
            except TroveError as error:
                metrics.SWEEPS.labels("failed").inc()
                log.warning("sweep: %s: %s", error.reason, error.message)
            await asyncio.sleep(self._interval)

    async def sweep(self) -> None:
        operations = await self._conductor.list_open_operations()
        known = await self._flows.list([operation.id for operation in operations])
        self._count(operations, known)
        for operation in operations:
            status = known.get(operation.id)
            if status is None:
                await self.start(operation)
            elif status.state is not FlowState.OPEN:
                await self._park(operation, status)
        self._cancel_superseded(operations)

    def _count(
        self, operations: Sequence[resources_pb2.Operation], known: Mapping[str, FlowStatus]
    ) -> None:
        metrics.OPERATIONS_OPEN.clear()
        for operation in operations:
            status = known.get(operation.id)
            kind = operation.kind if operation.kind in self._kinds else "unknown"
            flow = "none" if status is None else str(status.state)
            metrics.OPERATIONS_OPEN.labels(kind, flow).inc()

    async def start(self, operation: resources_pb2.Operation) -> None:
        """Submit an operation's flow; harmless when it exists or has ended."""
        if operation.kind not in self._kinds:
            # Written by a newer conductor: a newer task manager will know it.
            log.warning("operation %s: unknown kind %r", operation.id, operation.kind)
        elif operation.state in OPEN:
            await self._flows.submit(operation.kind, operation.id, key=operation.instance_id)

    async def _park(self, operation: resources_pb2.Operation, status: FlowStatus) -> None:
        """Nothing will move this operation any more: say so, and undo nothing."""
        current = (await self._conductor.get_input(operation.id)).operation
        if current.state not in OPEN:
            return  # it ended between the two questions
        cause = status.detail or "its flow has ended and the operation has not"
        fault = resources_pb2.Fault(
            message=f"{operation.kind} cannot go on: a fault of the control plane, not of the "
            "database; nothing was undone",
            details=f"Cause: {cause}\nNext: `trovectl events {operation.instance_id}`; the task "
            f"manager's log of operation {operation.id} names the place",
        )
        await self._conductor.finish_operation(
            operation.id, resources_pb2.OPERATION_STATE_STUCK, fault
        )
        metrics.STUCK.inc()
        log.error("operation %s is stuck: %s", operation.id, cause)

    def _cancel_superseded(self, operations: Sequence[resources_pb2.Operation]) -> None:
        deleting = {operation.instance_id for operation in operations if operation.kind == _DELETE}
        for operation in operations:
            if operation.instance_id in deleting and operation.kind != _DELETE:
                self._flows.request_cancel(operation.id)

    async def _drop_old(self) -> None:
        now = dt.datetime.now(dt.UTC)
        if now < self._next_drop:
            return
        count = await self._flows.drop_finished((now - self._retention).isoformat())
        if count:
            log.info("dropped %d ended flows from the log", count)
        else:
            self._next_drop = now + _DROP_INTERVAL
