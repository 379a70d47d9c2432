"""What every operation shares: its peers, patient steps, and the public record of its progress.

A step's name, state and detail go to the conductor, where REST shows them; its result, an id,
stays in the flow log. While the conductor is away nothing can be known or decided, so writes of
progress wait for it without limit; a step's own work has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from taskmanager.compute import Compute
from taskmanager.flows import Flow, Json, StepFailedError
from taskmanager.peers import ConductorClient, Guests, IssuerClient
from trove_grpc import context
from trove_grpc.errors import (
    ConflictError,
    DeadlineError,
    OverloadedError,
    TroveError,
    UnavailableError,
)
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.conductor.v1 import operation_service_pb2 as operations_pb2
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.redaction import MASK

log = logging.getLogger(__name__)

Input: TypeAlias = operations_pb2.GetOperationInputResponse
Result = TypeVar("Result")

# Away or busy: the same call may succeed later. Everything else is an answer.
PASSING = (UnavailableError, DeadlineError, OverloadedError)
OPEN = (resources_pb2.OPERATION_STATE_PENDING, resources_pb2.OPERATION_STATE_RUNNING)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_POLL_SECONDS = 0.5


class OperationOverError(Exception):
    """The conductor says that the operation has ended, and this flow did not end it.

    No TroveError on purpose: the flow breaks and undoes nothing, because whoever ended the
    operation decided what becomes of the instance.
    """


class Clock(Protocol):
    """Time, so that tests need not wait."""

    def time(self) -> float:
        """Seconds of a clock that only goes forward."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class LoopClock:
    """The event loop's time."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Deadlines of steps; see config.py for each."""

    agent: dt.timedelta
    engine: dt.timedelta
    outage: dt.timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What operations work with."""

    conductor: ConductorClient
    issuer: IssuerClient
    compute: Compute
    guests: Guests
    bundle: Callable[[], trust_pb2.TrustBundle]
    enrolment_endpoints: tuple[str, ...]
    guest_endpoints: tuple[str, ...]
    limits: Limits
    clock: Clock


class OperationRun:
    """One operation being carried out by a flow."""

    def __init__(self, flow: Flow, services: Services) -> None:
        self._flow = flow
        self.services = services

    async def step(self, name: str, body: Callable[[OperationRun, Input], Awaitable[Json]]) -> Any:
        """Run a named step: recorded publicly, patient with outages, its result kept."""

        async def work() -> Json:
            given = await self._input()
            with self._bound(given):
                await self._record(name, resources_pb2.STEP_STATE_RUNNING)
                try:
                    result = await self._patiently(
                        lambda: body(self, given), self.services.limits.outage
                    )
                except TroveError as error:
                    log.warning("step %s failed: %s: %s", name, error.reason, error.message)
                    await self._record(name, resources_pb2.STEP_STATE_FAILED, error.message)
                    raise
                await self._record(name, resources_pb2.STEP_STATE_SUCCEEDED)
                return result

        return await self._flow.step(name, work)

    def undo(
        self, name: str, body: Callable[[OperationRun, Input], Awaitable[Json]]
    ) -> Callable[[StepFailedError], Awaitable[None]]:
        """The undo of a step, for `flow.undo_on_failure`; recorded publicly."""

        async def work(failure: StepFailedError) -> None:
            given = await self._input()
            with self._bound(given):
                try:
                    await self._patiently(
                        lambda: body(self, given),
                        self.services.limits.outage,
                        cancellable=False,
                    )
                except TroveError as error:
                    detail = f"could not be undone: {error.message}"
                    await self._record(name, resources_pb2.STEP_STATE_FAILED, detail)
                    raise
                if failure.step != name:  # the step that failed keeps saying why
                    await self._record(name, resources_pb2.STEP_STATE_UNDONE)

        return work

    async def finish(self) -> None:
        """End the operation well. Never inside undo_on_failure: the work is done.

        Two steps of the flow, because an ended operation takes no more records: whichever is
        repeated after a crash may be.
        """

        async def record() -> None:
            await self._record("finish", resources_pb2.STEP_STATE_SUCCEEDED)

        async def end() -> None:
            await self._end(resources_pb2.OPERATION_STATE_SUCCEEDED, None)

        await self._flow.step("finish", record, cancellable=False)
        await self._flow.step("end", end, cancellable=False)

    async def fail(
        self, failure: StepFailedError, what: str, next_commands: Sequence[str], leftovers: str
    ) -> None:
        """End the operation with a fault that names step, cause and next command."""
        summary, _, cause = failure.message.partition("\n")
        details = [f"Step: {failure.step}.", f"Cause: {cause or summary}"]
        if leftovers:
            details.append(leftovers)
        details.append("Next: " + "; ".join(next_commands))
        fault = resources_pb2.Fault(
            message=f"{what}: {failure.step}: {summary}", details="\n".join(details)
        )

        async def end() -> None:
            await self._end(resources_pb2.OPERATION_STATE_FAILED, fault)

        await self._flow.step("end failed", end, cancellable=False)

    async def clean_up(
        self, names: Sequence[str], bodies: Mapping[str, Callable[[OperationRun, Input], Any]]
    ) -> None:
        """Undo, after the fault was told, what could not be undone in time; waits without limit.

        A later operation of the same instance waits for it: it would meet the same outage.
        """

        async def work(name: str) -> None:
            conductor, operation_id = self.services.conductor, self._flow.id
            given = await self._patiently(lambda: conductor.get_input(operation_id), None)
            with self._bound(given):
                await self._patiently(lambda: bodies[name](self, given), None, cancellable=False)
                with contextlib.suppress(OperationOverError):  # it has ended; this is for people
                    await self._record(name, resources_pb2.STEP_STATE_UNDONE)

        for name in names:
            try:
                await self._flow.step(
                    f"clean up {name}", functools.partial(work, name), cancellable=False
                )
            except StepFailedError as error:
                log.error("%s is not undone: %s", name, error.message)  # noqa: TRY400  expected, no traceback

    async def poll(
        self,
        check: Callable[[], Awaitable[Result | None]],
        limit: dt.timedelta,
    ) -> Result | None:
        """Ask `check` until it answers; None when `limit` has passed.

        An outage of the one asked ends the poll with its error, and the step begins it anew:
        time in which nothing could be seen does not count against a guest.
        """
        clock = self.services.clock
        ends = clock.time() + limit.total_seconds()
        while True:
            if (found := await check()) is not None:
                return found
            if (left := ends - clock.time()) <= 0:
                return None
            await clock.sleep(min(_POLL_SECONDS, left))
            self._flow.raise_if_cancelled()

    async def _input(self) -> Input:
        conductor, operation_id = self.services.conductor, self._flow.id
        given = await self._patiently(lambda: conductor.get_input(operation_id), None)
        if given.operation.state not in OPEN:
            raise OperationOverError(operation_id)
        return given

    async def _record(
        self, step: str, state: resources_pb2.StepState.ValueType, detail: str = ""
    ) -> None:
        conductor, operation_id = self.services.conductor, self._flow.id
        log.info("step %s: %s", step, resources_pb2.StepState.Name(state))
        with _only_while_open(operation_id):
            await self._patiently(
                lambda: conductor.record_step(operation_id, step, state, detail),
                None,
                cancellable=False,
            )

    async def _end(
        self,
        state: resources_pb2.OperationState.ValueType,
        fault: resources_pb2.Fault | None,
    ) -> None:
        conductor, operation_id = self.services.conductor, self._flow.id
        with _only_while_open(operation_id):
            await self._patiently(
                lambda: conductor.finish_operation(operation_id, state, fault),
                None,
                cancellable=False,
            )

    async def _patiently(
        self,
        work: Callable[[], Awaitable[Result]],
        limit: dt.timedelta | None,
        *,
        cancellable: bool = True,
    ) -> Result:
        """Repeat `work` over outages, for `limit` at most; its last error after that."""
        clock = self.services.clock
        ends = None if limit is None else clock.time() + limit.total_seconds()
        pause = _FIRST_PAUSE
        while True:
            try:
                return await work()
            except PASSING as error:
                if limit is not None and ends is not None and clock.time() + pause > ends:
                    raise UnavailableError(
                        f"what this step needs was away for {limit.total_seconds():g} s\n"
                        f"{error.message}",
                        reason=error.reason,
                    ) from error
                log.info("waiting for a peer: %s: %s", error.reason, error.message)
            await clock.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter
            pause = min(pause * 2, _LONGEST_PAUSE)
            if cancellable:
                self._flow.raise_if_cancelled()

    @contextlib.contextmanager
    def _bound(self, given: Input) -> Iterator[None]:
        operation = given.operation
        request_id = context.accept_request_id(operation.request_id)
        with context.bound(request_id=request_id, instance=operation.instance_id):
            yield


@contextlib.contextmanager
def _only_while_open(operation_id: str) -> Iterator[None]:
    try:
        yield
    except ConflictError as error:
        raise OperationOverError(operation_id) from error


@contextlib.contextmanager
def hiding(*secrets: str) -> Iterator[None]:
    """Mask `secrets` in the text of an error that passes: it is kept and shown."""
    try:
        yield
    except TroveError as error:
        for secret in filter(None, secrets):
            error.message = error.message.replace(secret, MASK)
        error.args = (error.message,)
        raise
