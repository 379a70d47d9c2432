"""An observer on the wire between the task manager and the conductor.

The installation under test is the real one, without a hook: `taskmanager.conductor`, an ordinary
setting, names this listener instead, which holds a certificate of its own as a conductor towards
the task manager and as a task manager towards the conductor. It passes every call on, byte for
byte, and can hold one at the boundary of a step until the harness has killed what it wants dead.
"""

from __future__ import annotations

import dataclasses
import enum
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from trove_grpc import context as request_context
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.conductor.v1 import operation_service_pb2 as pb
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.identity import Role
from trove_grpc.tls import (
    IdentityDirectory,
    channel_credentials,
    expected_server,
    server_credentials,
)

_SERVICE = "/trove.conductor.v1.OperationService"
_THREADS = 32  # calls held and calls passed on at once; a lane has one operation at a time
_HELD_SECONDS = 120.0  # a harness that died must not hold a call for ever
# The end of the operation itself, after its last step.
FINISH = "(operation)"


class Point(enum.StrEnum):
    """Where in a step. Each is a different crash: what is on disk differs."""

    START = "start"  # RUNNING is recorded, the work has not begun
    END = "end"  # the work is done, nobody knows
    RECORDED = "recorded"  # SUCCEEDED is recorded, the flow log does not have it


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """One write of progress as it passed."""

    operation_id: str
    step: str
    state: str
    detail: str = ""
    at: float = dataclasses.field(default_factory=time.monotonic, compare=False)


class Trap:
    """Holds the first write that reaches its boundary, and its repetitions, until released."""

    def __init__(self, step: str, point: Point) -> None:
        self.step = step
        self.point = point
        self.reached = threading.Event()
        self._released = threading.Event()
        self._is_lost = False
        self.operation_id = ""

    def release(self, *, lost: bool = False) -> None:
        """Let it go on; `lost`: as if one of the two ends had died with the call in its hands."""
        self._is_lost = lost
        self._released.set()

    def hold(self, moment: Moment, *, before: bool) -> bool:
        """Wait here if this is the boundary; True when the call is lost."""
        if self._released.is_set() or not self._is_here(moment, before=before):
            return False
        self.operation_id = moment.operation_id
        self.reached.set()
        self._released.wait(_HELD_SECONDS)
        return self._is_lost

    def _is_here(self, moment: Moment, *, before: bool) -> bool:
        state = "RUNNING" if self.point is Point.START else "SUCCEEDED"
        return (
            (moment.step, moment.state) == (self.step, state)
            and before == (self.point is Point.END)
            and self.operation_id in ("", moment.operation_id)
        )


class Observer(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Passes calls on; keeps every write of progress in `journal`."""

    def __init__(
        self,
        listen: str,
        conductor: str,
        *,
        as_conductor: IdentityDirectory,
        as_taskmanager: IdentityDirectory,
    ) -> None:
        self.journal: list[Moment] = []
        self._trap: Trap | None = None
        bundle = as_taskmanager.bundle()
        self._channel = grpc.secure_channel(
            conductor,
            channel_credentials(bundle, as_taskmanager.load()),
            options=(
                ("grpc.enable_http_proxy", 0),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 500),
                expected_server(bundle, Role.CONDUCTOR),
            ),
        )
        self._server = grpc.server(
            futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="observer"),
            handlers=[self],
            options=(("grpc.so_reuseport", 0),),
        )
        trusts = {trust_pb2.AUTHORITY_KIND_SERVICE, trust_pb2.AUTHORITY_KIND_OPERATOR}
        self._server.add_secure_port(listen, server_credentials(as_conductor, trusts))
        self._server.start()

    def set_trap(self, trap: Trap | None) -> None:
        self._trap = trap

    def close(self) -> None:
        if self._trap is not None:
            self._trap.release(lost=True)
        self._server.stop(0).wait(10)
        self._channel.close()

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler:
        method = handler_call_details.method
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._pass_on(method, request, context)
        )

    def _pass_on(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        moment, trap = _moment(method, request), self._trap
        if moment is not None and trap is not None and trap.hold(moment, before=True):
            context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
        if not context.is_active():
            # Its caller died while it was held: the call went down with it.
            context.abort(grpc.StatusCode.CANCELLED, "lost")
        reply = self._call(method, request, context)
        if moment is not None:
            self.journal.append(moment)
            if trap is not None and trap.hold(moment, before=False):
                context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
        return reply

    def _call(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        kept = [
            (key, value)
            for key, value in context.invocation_metadata()
            if key == request_context.REQUEST_ID_KEY
        ]
        try:
            reply: bytes = self._channel.unary_unary(method)(
                request, timeout=context.time_remaining(), metadata=kept
            )
        except grpc.RpcError as error:
            context.set_trailing_metadata(tuple(error.trailing_metadata() or ()))
            context.abort(error.code(), error.details())
        return reply


def _moment(method: str, request: bytes) -> Moment | None:
    if method == f"{_SERVICE}/RecordStep":
        step = pb.RecordStepRequest.FromString(request)
        state = resources_pb2.StepState.Name(step.state).removeprefix("STEP_STATE_")
        return Moment(step.operation_id, step.step_name, state, step.detail)
    if method == f"{_SERVICE}/FinishOperation":
        end = pb.FinishOperationRequest.FromString(request)
        state = resources_pb2.OperationState.Name(end.state).removeprefix("OPERATION_STATE_")
        return Moment(end.operation_id, FINISH, state, end.fault.message)
    return None


def boundaries(journal: list[Moment], operation_id: str) -> Iterator[tuple[str, Point]]:
    """Every boundary an undisturbed operation went through, in order."""
    seen: set[tuple[str, Point]] = set()
    for moment in journal:
        if moment.operation_id != operation_id:
            continue
        points = (Point.START,) if moment.state == "RUNNING" else (Point.END, Point.RECORDED)
        for point in points:
            if (moment.step, point) not in seen:
                seen.add((moment.step, point))
                yield moment.step, point


def identity_below(folder: Path, name: str) -> IdentityDirectory:
    path = folder / name
    path.mkdir(mode=0o700, parents=True)
    return IdentityDirectory(path)
