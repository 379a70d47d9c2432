"""Keeps the engine as it is meant to be, and says what it sees.

Everything that changes the engine holds one lock: a command and a recovery never meet. Each
change of state is told at once; heartbeats repeat the latest observation.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from guestagent.engines import DatabaseAuthority, Engine, EngineSpec, Probe, Process
from guestagent.record import Record, RecordFile
from trove_grpc.errors import ConflictError, InvalidRequestError, TroveError, UnavailableError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.process import wait_or_timeout

log = logging.getLogger(__name__)

_STATE_BY_PROCESS = {
    Process.ANSWERING: engine_pb2.ENGINE_STATE_HEALTHY,
    Process.STARTING: engine_pb2.ENGINE_STATE_STARTING,
    Process.BLOCKED: engine_pb2.ENGINE_STATE_BLOCKED,
}
# What a reason begins with where the engine is healthy; the conductor reads them.
RESTART_REQUIRED = "restart_required"
CONFIGURATION_REVERTED = "configuration_reverted"
_TRIAL_STARTS = 5
_TEND_SECONDS = 60.0
_READY_POLL_SECONDS = 0.2
_BACKOFF_FACTOR = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often the engine is looked at and started again, seconds."""

    health_interval: float
    restart_limit: int
    stable_after: float
    backoff: float
    backoff_limit: float


class Watcher:
    """One engine and what it is meant to be."""

    def __init__(
        self,
        engine: Engine,
        records: RecordFile,
        *,
        patience: Patience,
        authority: DatabaseAuthority,
        on_change: Callable[[], None],
    ) -> None:
        self.engine = engine
        self._records = records
        self._record = records.load()
        self._patience = patience
        self._authority = authority
        self._on_change = on_change
        self._lock = asyncio.Lock()
        self._state = engine_pb2.ENGINE_STATE_NEW
        self._reason = "no engine has been prepared yet"
        self._version = ""
        self._volume = engine_pb2.VolumeUsage()
        self._crashes = _Crashes(patience)
        # Started with settings it has not started with before, and has not answered yet.
        self._is_on_trial = False
        self._tended_at = float("-inf")
        self.engine_serial = ""  # of the certificate its listener shows, as seen last

    def observation(self) -> engine_pb2.Observation:
        """The latest sight of the engine, on the guest's clock."""
        observation = engine_pb2.Observation(
            state=self._state,
            reason=self._reason or self._configuration_note(),
            volume=self._volume,
            engine_version=self._version,
            start_count=self._record.start_count,
        )
        observation.guest_time.GetCurrentTime()
        return observation

    async def run(self, stop: asyncio.Event) -> None:
        """Look, act, wait; until `stop`. The engine is left as it is."""
        while not stop.is_set():
            async with self._lock:
                await self._look()
            await wait_or_timeout(stop, self._patience.health_interval)

    async def prepare(
        self,
        spec: EngineSpec,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        """Make an engine out of an empty guest, or finish what a killed agent began."""
        self.engine.capabilities.check(databases, users)
        self.engine.check(spec, databases, users)
        async with self._lock:
            if self._record.is_prepared and spec != self._record.spec:
                raise ConflictError(
                    "the engine was prepared otherwise; delete the instance to begin anew",
                    reason="ENGINE_ALREADY_PREPARED",
                )
            if not self._record.is_prepared:
                self._see(engine_pb2.ENGINE_STATE_PREPARING, "a prepare command is carried out")
            try:
                self._write(spec=spec, is_wanted=True)
                await self.engine.create(spec, self._authority)
                await self._start(spec)
                await self._await_answer(spec)
                await self.engine.apply(spec, databases, users)
                self._write(is_prepared=True)
                self._crashes.forget()
                await self._look()
            finally:
                # Failed, or its deadline passed: the caller knows why and may repeat it.
                if not self._record.is_prepared:
                    self._see(engine_pb2.ENGINE_STATE_NEW, "the last prepare was not finished")

    async def start(self) -> None:
        """Want the engine, start it and wait until it answers. Forgives earlier crashes."""
        async with self._lock:
            spec = self._prepared()
            self._write(is_wanted=True)
            self._crashes.forget()
            await self._start(spec)
            await self._await_answer(spec)
            await self._look()

    async def stop(self) -> None:
        """Stop the engine and keep it stopped."""
        async with self._lock:
            spec = self._prepared()
            self._write(is_wanted=False)
            await self.engine.stop(spec)
            await self._look()

    async def restart(self) -> None:
        async with self._lock:
            await self.engine.stop(self._prepared())
        await self.start()

    async def resize(self, memory_mib: int, *, previous_mib: int, patience: float) -> None:
        """Run the engine with other memory, or with `previous_mib` again when it does not answer.

        `patience` is in seconds. Raises ConflictError (ENGINE_RESIZE_FAILED) once it is back, or
        what keeps it from that. A repeat of one that a kill cut off begins anew.
        """
        async with self._lock:
            spec = self._prepared()
            wanted = dataclasses.replace(spec, memory_mib=memory_mib)
            try:
                async with asyncio.timeout(patience):
                    await self._run_with(wanted)
            except (ConflictError, InvalidRequestError, TimeoutError) as error:
                cause = str(error) or f"it did not answer within {patience:g} s"
                log.warning("no engine with %d MiB: %s; going back", memory_mib, cause)
                await self._run_with(dataclasses.replace(spec, memory_mib=previous_mib))
                raise ConflictError(
                    f"the engine does not run with {memory_mib} MiB of memory; it has "
                    f"{previous_mib} MiB again\n{cause}",
                    reason="ENGINE_RESIZE_FAILED",
                ) from error

    @property
    def pending_restart(self) -> tuple[str, ...]:
        """The tenant's parameters that wait for the next start."""
        return self._record.pending_restart

    async def configure(self, parameters: Sequence[engine_pb2.Parameter]) -> None:
        """Give the running engine the tenant's settings, instead of those it has of them."""
        async with self._lock:
            spec = self._prepared()
            found = await self.engine.probe(spec)
            if found.process is not Process.ANSWERING:
                raise UnavailableError(
                    f"the engine takes no settings now: {found.reason or 'it does not answer'}",
                    reason="ENGINE_NOT_READY",
                )
            pending = await self.engine.configure(spec, parameters)
            self._tell_configuration(pending_restart=tuple(pending), reverted="")

    async def look(self) -> None:
        """A fresh observation, unless a longer piece of work has the engine."""
        if not self._lock.locked():
            async with self._lock:
                await self._look()

    def answering(self) -> EngineSpec:
        """The prepared engine; raises UnavailableError unless it answered at the last look."""
        spec = self._prepared()
        if self._state != engine_pb2.ENGINE_STATE_HEALTHY:
            raise UnavailableError(
                f"the engine does not answer now: {self._reason}", reason="ENGINE_NOT_RUNNING"
            )
        return spec

    @contextlib.asynccontextmanager
    async def holding(self) -> AsyncIterator[EngineSpec]:
        """The answering engine, for a change of what is inside: nobody stops it meanwhile."""
        async with self._lock:
            yield self.answering()

    def tend_soon(self) -> None:
        """Do the housekeeping at the next look instead of within a minute."""
        self._tended_at = float("-inf")

    async def shut_down(self) -> None:
        """Stop the engine for the machine's sake; what it is meant to be stays."""
        async with self._lock:
            if self._record.spec is not None:
                await self.engine.stop(self._record.spec)

    async def _run_with(self, spec: EngineSpec) -> None:
        """Stop the engine and start it by `spec`, unless that is how it runs already."""
        self.engine.check(spec, [], [])
        if (
            self._record.is_applied
            and self._record.spec == spec
            and (await self.engine.probe(spec)).process is Process.ANSWERING
        ):
            return
        self._write(spec=spec, is_wanted=True, is_applied=False)
        self._crashes.forget()
        await self.engine.stop(spec)
        await self.engine.write_settings(spec)
        await self._start(spec)
        await self._await_answer(spec)
        self._write(is_applied=True)
        await self._look()

    def _prepared(self) -> EngineSpec:
        if self._record.spec is None or not self._record.is_prepared:
            raise ConflictError(
                "no engine has been prepared on this guest; prepare it first",
                reason="ENGINE_NOT_PREPARED",
            )
        return self._record.spec

    async def _look(self) -> None:
        record = self._record
        if record.spec is None or not record.is_prepared:
            return  # a prepare that was killed half-way is repeated by its caller
        try:
            found = await self.engine.probe(record.spec)
            if record.is_wanted:
                await self._keep_up(record.spec, found)
            else:
                await self._keep_down(record.spec, found)
        except TroveError as error:
            # Nothing learnt about the engine itself: say so, look again.
            log.warning("the engine cannot be looked after: %s", error.message)
            self._see(engine_pb2.ENGINE_STATE_BLOCKED, error.message)
            return
        await self._tend(record.spec)

    async def _keep_up(self, spec: EngineSpec, found: Probe) -> None:
        if found.process is not Process.GONE:
            self._crashes.survived()
            await self._see_alive(found)
            return
        if self._state in (engine_pb2.ENGINE_STATE_NEW, engine_pb2.ENGINE_STATE_STOPPED):
            # The agent has just come: the machine booted, or both died. Not a crash we saw.
            self._see(engine_pb2.ENGINE_STATE_STARTING, "found stopped; starting it")
        elif self._state is not engine_pb2.ENGINE_STATE_FAILED and self._crashes.died():
            self._see(engine_pb2.ENGINE_STATE_CRASHED, f"{found.reason}; starting it again")
        if self._is_on_trial:
            await self._go_back(self._reason or found.reason)
        if self._crashes.is_final:
            self._give_up()
        elif self._crashes.may_start():
            try:
                await self._start(spec)
            except ConflictError as error:
                self._crashes.failed(error.message)
                log.warning("%s", error.message)
                self._see(engine_pb2.ENGINE_STATE_CRASHED, error.message)
                return
            answer = await self.engine.probe(spec)
            if answer.process is not Process.GONE:
                await self._see_alive(answer)

    async def _see_alive(self, found: Probe) -> None:
        self._version = found.version or self._version
        if found.process is Process.ANSWERING:
            await self._pass_trial()
        self._see(_STATE_BY_PROCESS[found.process], found.reason)

    async def _keep_down(self, spec: EngineSpec, found: Probe) -> None:
        if found.process is not Process.GONE:
            await self.engine.stop(spec)
        self._see(engine_pb2.ENGINE_STATE_STOPPED, "stopped on request")

    async def _start(self, spec: EngineSpec) -> None:
        if (await self.engine.probe(spec)).process is not Process.GONE:
            return
        self._is_on_trial = await self.engine.include.is_on_trial()
        if self._is_on_trial:
            await self._start_on_trial(spec)
        else:
            await self.engine.start(spec)
        self._crashes.started()
        self._write(start_count=self._record.start_count + 1)
        self._tell_configuration(pending_restart=())
        log.info("engine started, for the %dth time", self._record.start_count)

    async def _await_answer(self, spec: EngineSpec) -> None:
        """Until it takes queries; a command's own deadline bounds the wait."""
        while (found := await self.engine.probe(spec)).process is not Process.ANSWERING:
            if found.process is Process.GONE:
                if not self._is_on_trial:
                    raise ConflictError(
                        "the engine stopped right after its start", reason="ENGINE_START_FAILED"
                    )
                await self._go_back(found.reason)
                await self._start(spec)
            await asyncio.sleep(_READY_POLL_SECONDS)
        self._version = found.version
        await self._pass_trial()

    # The tenant's settings, which an engine must prove to start with.

    async def _start_on_trial(self, spec: EngineSpec) -> None:
        """Start, if need be with the settings it last started with.

        One failure is no proof: after a crash what is left of the last process may be in the way.
        """
        for attempt in range(_TRIAL_STARTS):
            try:
                return await self.engine.start(spec)
            except ConflictError as error:
                if error.reason != "ENGINE_START_FAILED":
                    raise
                words = error.message
            await asyncio.sleep(self._patience.backoff * _BACKOFF_FACTOR**attempt)
        await self._go_back(words)
        return await self.engine.start(spec)

    async def _pass_trial(self) -> None:
        """Keep what it has started with; where the disk refuses, at a later look."""
        if not self._is_on_trial:
            return
        try:
            await self.engine.include.keep()
        except TroveError as error:
            log.warning("the tenant's settings are still on trial: %s", error.message)
            return
        self._is_on_trial = False

    async def _go_back(self, words: str) -> None:
        """To the settings it last started with; `words` are the engine's."""
        await self.engine.include.give_up()
        self._is_on_trial = False
        log.warning("the tenant's settings are given up: %s", words)
        self._tell_configuration(pending_restart=(), reverted=words)

    def _configuration_note(self) -> str:
        """What a healthy engine's reason says of its settings."""
        if self._state != engine_pb2.ENGINE_STATE_HEALTHY:
            return ""
        if self._record.pending_restart:
            return f"{RESTART_REQUIRED}: {', '.join(self._record.pending_restart)}"
        if self._record.reverted:
            return (
                f"{CONFIGURATION_REVERTED}: the settings it last started with are in force, "
                f"because with the new ones {self._record.reverted}"
            )
        return ""

    def _tell_configuration(self, **changes: object) -> None:
        before = self._configuration_note()
        self._write(**changes)
        if self._configuration_note() != before:
            self._on_change()

    async def _tend(self, spec: EngineSpec) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._tended_at >= _TEND_SECONDS:
            self._tended_at = now
            try:
                self._volume = await self.engine.tend(spec, self._authority)
                self.engine_serial = await self.engine.certificate_serial()
            except TroveError as error:
                # The engine itself is well: a certificate has a third of its life to try again.
                log.warning("housekeeping failed, next try in a minute: %s", error.message)

    def _give_up(self) -> None:
        reason = (
            f"given up after {self._patience.restart_limit} starts in a row: "
            f"{self._crashes.last_words or 'it dies soon after each start'}; "
            f"look at the engine's log, then restart it"
        )
        self._see(engine_pb2.ENGINE_STATE_FAILED, reason)

    def _see(self, state: engine_pb2.EngineState.ValueType, reason: str) -> None:
        changed = state != self._state
        self._state, self._reason = state, reason
        if changed:
            name = engine_pb2.EngineState.Name(state).removeprefix("ENGINE_STATE_")
            log.info("engine is %s %s", name, reason)
            self._on_change()

    def _write(self, **changes: object) -> None:
        record: Record = dataclasses.replace(self._record, **changes)  # type: ignore[arg-type]
        if record != self._record:
            self._records.store(record)
            self._record = record


class _Crashes:
    """When the engine may be started again, and when it is enough."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.forget()

    def forget(self) -> None:
        self._count = 0
        self._started_at: float | None = None
        self._next_start = float("-inf")
        self._is_counted = False
        self.last_words = ""

    @property
    def is_final(self) -> bool:
        return self._count > self._patience.restart_limit

    def may_start(self) -> bool:
        return _now() >= self._next_start

    def started(self) -> None:
        self._started_at = _now()
        self._is_counted = False

    def survived(self) -> None:
        """Seen alive: after long enough, earlier crashes are forgotten."""
        if self._started_at is not None and (
            _now() - self._started_at >= self._patience.stable_after
        ):
            self.forget()

    def died(self) -> bool:
        """Count one death, once; the first start after it is immediate."""
        if self._is_counted:
            return False
        self._is_counted = True
        self._count += 1
        if self._count > 1:
            self._postpone()
        return True

    def failed(self, words: str) -> None:
        """A start that did not even succeed."""
        self._is_counted = True
        self._count += 1
        self.last_words = words
        self._postpone()

    def _postpone(self) -> None:
        pause = self._patience.backoff * _BACKOFF_FACTOR ** (self._count - 1)
        jitter = random.uniform(0.75, 1.25)  # noqa: S311  not a secret
        self._next_start = _now() + min(pause, self._patience.backoff_limit) * jitter


def _now() -> float:
    return asyncio.get_running_loop().time()
