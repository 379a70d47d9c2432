"""Durable flows: async functions whose finished steps survive the death of the process.

The only module that knows DBOS Transact (docs/adr: durable flows). What it guarantees, and why:

* A flow's id is its operation's id, so submitting twice runs it once.
* A flow is undone only after `StepFailedError`: a failure that one of its steps declared. On
  everything else (a replay that does not match the code, a lost ownership, a cancelled row, a
  bug) nothing is undone and the flow is BROKEN until a person looks: an upgrade mistake must not
  delete databases.
* Step results are small JSON values, ids and numbers; a Secret, bytes or a message is refused,
  so no secret can reach the log's database. Pickle is never read: writing to that database must
  not mean running code here.
* Flows of one key (the instance) run one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import enum
import functools
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import dbos._serialization as dbos_serialization
from dbos import DBOS, DBOSConfig, Serializer, SetEnqueueOptions, SetWorkflowID
from dbos import error as dbos_error

from taskmanager import flow_logs, metrics
from taskmanager.config import DEFAULT_LEASE
from taskmanager.flow_database import FlowDatabase, database_may_be_away
from trove_grpc import context
from trove_grpc.errors import ConflictError, InvalidRequestError, TroveError, UnavailableError

log = logging.getLogger(__name__)

Json: TypeAlias = bool | int | str | list["Json"] | dict[str, "Json"] | None
Body: TypeAlias = Callable[[], Awaitable[Json]]
UndoBody: TypeAlias = Callable[["StepFailedError"], Awaitable[Json]]
Ready: TypeAlias = Callable[[], Awaitable[None]]
FlowFunction: TypeAlias = Callable[["Flow"], Awaitable[None]]

# Pinned: a hash of the source would strand every flow in flight at each upgrade. A changed flow
# needs DBOS.patch, and a test that replays the history of the last release.
APPLICATION_VERSION = "1"
_QUEUE = "operations"
_POLL_SECONDS = 0.2  # from submission to the first step; each poll is one indexed query
_WATCH_SECONDS = 1.0  # the longest a dead executor's flows wait, next to the poll
_STRANDED_SECONDS = 10.0  # between a flow's claim and its first step lie milliseconds
_THREADS = 32  # of the step log; steps themselves run on the event loop
_RESULT_BYTES = 2048  # ids and addresses are far smaller
_MESSAGE_CHARACTERS = 2000
_ERROR = "$error"
_DROP_BATCH = 500


class StepFailedError(TroveError):
    """A step failed and said so. The only error after which a flow is undone."""

    reason = "STEP_FAILED"

    def __init__(self, message: str, *, reason: str = "", step: str = "") -> None:
        super().__init__(message[:_MESSAGE_CHARACTERS], reason=reason, subject=step)

    @property
    def step(self) -> str:
        return self.subject


class FlowBrokenError(Exception):
    """What is left, after a replay, of an error that was no declared failure: its name."""


class FlowState(enum.StrEnum):
    """States of a flow, as the sweeper acts on them."""

    OPEN = "open"  # waiting or running
    DONE = "done"  # returned
    BROKEN = "broken"  # raised, cancelled or given up; nothing more will happen by itself


@dataclass(frozen=True, slots=True)
class FlowStatus:
    """One flow in the log."""

    id: str
    name: str
    state: FlowState
    detail: str = ""  # of a broken flow: the kind of error


class Undo:
    """What to do, last first, after a failure. Register before the step: it may have happened."""

    def __init__(self) -> None:
        self.actions: list[tuple[str, UndoBody]] = []
        self.failed: list[str] = []  # steps whose undo failed, in the order tried

    def __call__(self, step: str, body: UndoBody) -> None:
        self.actions.append((step, body))


class Flow:
    """A running flow, as its function sees it."""

    def __init__(
        self, flow_id: str, cancelled: asyncio.Event, *, ready: Ready | None = None
    ) -> None:
        """`ready` returns once a step may start, not while this executor may be thought dead."""
        self.id = flow_id
        self._cancelled = cancelled
        self._ready = ready

    async def step(self, name: str, body: Body, *, cancellable: bool = True) -> Any:
        """Run `body` once and record its result; after a restart, answer the record.

        Raises StepFailedError for a TroveError of the body, or instead of running it when the
        flow was cancelled.
        """
        return await self._run(name, body, cancellable=cancellable)

    def raise_if_cancelled(self) -> None:
        """End a waiting step early once somebody asked for it; undone like any failure."""
        if self._cancelled.is_set():
            raise StepFailedError("cancelled on request", reason="CANCELLED")

    @contextlib.asynccontextmanager
    async def undo_on_failure(self) -> AsyncIterator[Undo]:
        """Undo in reverse order after a declared failure, then raise it again.

        An undo that fails does not keep the others from running. Whatever is not a
        StepFailedError passes untouched.
        """
        undo = Undo()
        try:
            yield undo
        except StepFailedError as failure:
            for step, body in reversed(undo.actions):
                try:
                    bound = functools.partial(body, failure)
                    await self._run(f"undo {step}", bound, cancellable=False)
                except StepFailedError as error:
                    undo.failed.append(step)
                    log.error("undo of %s failed: %s", step, error.message)  # noqa: TRY400  expected, no traceback
            raise

    async def _run(self, name: str, body: Body, *, cancellable: bool) -> Any:
        async def run() -> Json:  # a closure: DBOS logs what it runs, so arguments stay inside
            try:
                if self._ready is not None:
                    await self._ready()
                if cancellable:
                    self.raise_if_cancelled()
                return _checked(await body())
            except TroveError as error:
                raise StepFailedError(error.message, reason=error.reason, step=name) from error

        return await self._durably(name, run)

    async def _durably(self, name: str, run: Body) -> Any:
        """Answer the record of this step, or run it and record it. Tests bring another log."""
        return await DBOS.run_step_async({"name": name}, run)


class Flows:
    """The engine. One per process: DBOS is a singleton."""

    def __init__(
        self,
        *,
        database_url: str,
        executor_id: str,
        functions: dict[str, FlowFunction],
        concurrency: int = 64,
        password_file: Path | None = None,
        lease: dt.timedelta = DEFAULT_LEASE,
    ) -> None:
        """`functions` are the flows by name; `concurrency` bounds those running here at once.

        `password_file` and `lease` are for PostgreSQL.
        """
        self._database = FlowDatabase(database_url, password_file=password_file, lease=lease)
        self._liveness = self._database.liveness(executor_id)
        self._executor_id = executor_id
        self._concurrency = concurrency
        self._functions = functions
        self._workflows: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._running: dict[str, asyncio.Task[Any]] = {}  # by flow
        self._stranded: dict[str, float] = {}  # flows, and since when
        self._cancelled: dict[str, asyncio.Event] = {}

    async def __aenter__(self) -> Self:
        self._database.make_directory()
        await self._liveness.acquire()
        try:
            self._database.prepare()
            flow_logs.route()
            config: DBOSConfig = {
                "name": "trove-taskmanager",
                "system_database_url": self._database.url,
                "application_version": APPLICATION_VERSION,
                "executor_id": self._executor_id,
                "serializer": JsonSerializer(),
                "enable_otlp": False,
                "log_level": "WARNING",
                "max_executor_threads": _THREADS,
                "use_listen_notify": False,
                "db_engine_kwargs": self._database.engine_arguments(),
                "scheduler_polling_interval_sec": 3600.0,  # no flow is scheduled by DBOS
            }
            DBOS(config=config)
            for name, function in self._functions.items():
                self._workflows[name] = self._register(name, function)
            DBOS.launch()
            await DBOS.register_queue_async(
                _QUEUE,
                partition_concurrency=1,
                worker_concurrency=self._concurrency,
                polling_interval_sec=_POLL_SECONDS,
                on_conflict="always_update",
            )
        except BaseException:
            await self._shut_down()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._shut_down()

    async def _shut_down(self) -> None:
        """Leave running flows where they are; the next start goes on from their last step."""
        await self._cancel_running()
        # DBOS made its own executor the loop's default and is about to close it under everybody.
        executor, loop = ThreadPoolExecutor(), asyncio.get_running_loop()
        loop.set_default_executor(executor)
        # In a thread: it joins threads that may be waiting for this loop.
        await asyncio.to_thread(DBOS.destroy, destroy_registry=True)
        loop.set_default_executor(executor)  # a flow that had just begun may have put it back
        await self._cancel_running()  # whatever the queue started in between
        await self._liveness.release()

    async def _cancel_running(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _register(self, name: str, function: FlowFunction) -> Any:
        async def workflow() -> None:
            flow_id = DBOS.workflow_id or ""
            task = asyncio.current_task()
            assert task is not None  # noqa: S101  a coroutine always runs in a task
            self._tasks.add(task)
            self._running[flow_id] = task
            cancelled = self._cancelled.setdefault(flow_id, asyncio.Event())
            try:
                running = metrics.FLOWS_RUNNING.labels(name).track_inprogress()
                with context.bound(operation=flow_id), running, _counted(name):
                    await function(Flow(flow_id, cancelled, ready=self._liveness.wait_until_sure))
            finally:
                self._tasks.discard(task)
                self._running.pop(flow_id, None)
                self._cancelled.pop(flow_id, None)

        return DBOS.workflow(name=name)(workflow)

    async def submit(self, name: str, flow_id: str, *, key: str) -> None:
        """Start flow `name`; harmless when `flow_id` exists. Flows of one `key` do not overlap.

        Raises InvalidRequestError for an unknown name, ConflictError when the id is another's.
        """
        if name not in self._workflows:
            raise InvalidRequestError(f"no flow is named {name!r}", reason="UNKNOWN_FLOW")
        try:
            with (
                database_may_be_away(),
                SetWorkflowID(flow_id),
                SetEnqueueOptions(queue_partition_key=key),
            ):
                await DBOS.enqueue_workflow_async(_QUEUE, self._workflows[name])
        except dbos_error.DBOSConflictingWorkflowError as error:
            raise ConflictError(f"flow {flow_id} exists under another name") from error

    def request_cancel(self, flow_id: str) -> None:
        """Ask a flow running here to end at its next step or poll; its work is undone.

        Kept in memory only: whoever wants it asks again after a restart.
        """
        if event := self._cancelled.get(flow_id):
            event.set()

    async def list(self, flow_ids: Collection[str]) -> dict[str, FlowStatus]:
        """The flows among `flow_ids` that are in the log."""
        if not flow_ids:
            return {}
        with database_may_be_away():
            rows = await DBOS.list_workflows_async(workflow_ids=[*flow_ids], load_input=False)
        return {row.workflow_id: _status(row) for row in rows}

    async def check(self) -> None:
        """Raise UnavailableError when the flow log does not answer."""
        await self._liveness.check()

    async def watch(self) -> None:
        """Show that this executor lives, and take over the flows of dead ones, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._liveness.keep(self._drop_adopted), name="executor-liveness")
            while True:
                try:
                    await self.adopt_abandoned()
                except UnavailableError as error:
                    log.warning("cannot look for flows of dead executors: %s", error.message)
                await asyncio.sleep(_WATCH_SECONDS)

    async def _drop_adopted(self) -> None:
        """Stop running what another executor took over while this one seemed dead."""
        with database_may_be_away():
            rows = await DBOS.list_workflows_async(
                workflow_ids=list(self._running), load_input=False, load_output=False
            )
        for row in rows:
            task = self._running.get(row.workflow_id)
            if task is not None and row.executor_id != self._executor_id:
                log.warning("flow %s goes on at %s", row.workflow_id, row.executor_id)
                task.cancel()

    async def adopt_abandoned(self) -> None:
        """Re-enqueue the flows of executors that are dead now.

        Looks at every pending row each time, never once per death: a takeover that failed half
        way is simply tried again.
        """
        with database_may_be_away():
            rows = await DBOS.list_workflows_async(
                status="PENDING", load_input=False, load_output=False
            )
        await self._resume_stranded(
            {row.workflow_id for row in rows if row.executor_id == self._executor_id}
        )
        owners = {row.executor_id for row in rows if row.executor_id} - {self._executor_id}
        for owner in sorted(owners):
            async with self._liveness.holding_dead(owner) as is_dead:
                if not is_dead:
                    continue
                log.warning("executor %s is dead; taking over its flows", owner)
                with database_may_be_away():
                    await asyncio.to_thread(DBOS._recover_pending_workflows, [owner])  # noqa: SLF001  the atomic one; pinned by a test

    async def _resume_stranded(self, pending: set[str]) -> None:
        """Start flows again that are ours in the log, and have not run here for a while.

        Their end could not be written: the database failed in a way DBOS does not wait for.
        """
        now = time.monotonic()
        stranded = pending - set(self._running)
        self._stranded = {flow: self._stranded.get(flow, now) for flow in stranded}
        for flow, since in list(self._stranded.items()):
            if now - since > _STRANDED_SECONDS:
                log.warning("flow %s had stopped without an end; going on with it", flow)
                with database_may_be_away():
                    await DBOS.resume_workflow_async(flow)
                del self._stranded[flow]

    async def drop_finished(self, before: str) -> int:
        """Delete a batch of flows that ended before `before` (ISO 8601); returns how many."""
        with database_may_be_away():
            rows = await DBOS.list_workflows_async(
                status=["SUCCESS", "ERROR", "CANCELLED"],
                completed_before=before,
                limit=_DROP_BATCH,
                load_input=False,
                load_output=False,
            )
            if ids := [row.workflow_id for row in rows]:
                await DBOS.delete_workflows_async(ids)
        return len(ids)


@contextlib.contextmanager
def _counted(name: str) -> Iterator[None]:
    """Count how a flow ended here; one that is cut off by our own end has not ended."""
    result = "broken"
    try:
        yield
        result = "done"
    except StepFailedError:
        result = "failed"
        raise
    except asyncio.CancelledError:
        result = ""
        raise
    finally:
        if result:
            metrics.FLOWS_ENDED.labels(name, result).inc()


def _status(row: Any) -> FlowStatus:
    if row.status in ("ENQUEUED", "PENDING", "DELAYED"):
        return FlowStatus(row.workflow_id, row.name, FlowState.OPEN)
    if row.status == "SUCCESS":
        return FlowStatus(row.workflow_id, row.name, FlowState.DONE)
    detail = f"{type(row.error).__name__}: {row.error}" if row.error else str(row.status)
    return FlowStatus(row.workflow_id, row.name, FlowState.BROKEN, detail)


class JsonSerializer(Serializer):
    """JSON and nothing else; errors by name, declared failures with their message."""

    def name(self) -> str:
        return "trove_json"

    def serialize(self, data: Any) -> str:
        if isinstance(data, StepFailedError):
            fields = {"message": data.message, "reason": data.reason, "step": data.step}
            data = {_ERROR: fields}
        elif isinstance(data, BaseException):
            # The text of a foreign error may quote anything; its name is enough to find the log.
            data = {_ERROR: {"name": type(data).__name__}}
        return json.dumps(data, allow_nan=False, separators=(",", ":"))

    def deserialize(self, serialized_data: str) -> Any:
        data = json.loads(serialized_data)
        if isinstance(data, dict) and set(data) == {_ERROR}:
            fields = data[_ERROR]
            if "name" in fields:
                return FlowBrokenError(fields["name"])
            return StepFailedError(fields["message"], reason=fields["reason"], step=fields["step"])
        return data


def _checked(result: Json) -> Json:
    if not _is_plain(result) or len(json.dumps(result)) > _RESULT_BYTES:
        raise TypeError("a step returns ids and numbers only; keep everything else inside it")
    return result


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, str)


def _refuse_pickle(_: Any, _data: str) -> Any:
    raise TypeError("the flow log holds JSON; a pickled value is not read")


# DBOS reads pickle whenever a row says so, whatever serializer is configured.
setattr(dbos_serialization.DefaultSerializer, "deserialize", _refuse_pickle)  # noqa: B010  a method is not assignable for mypy
