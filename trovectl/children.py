"""Child processes: started, watched, brought back with backoff, stopped in their own way.

A process is watched through a pidfd, which works for children and for processes an earlier
supervisor started alike. Nothing else in this program starts processes, so exit statuses have
one owner; orphans of our children come to us (subreaper) and are collected here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trove_grpc.errors import UnavailableError
from trove_grpc.process import wait_or_timeout
from trovectl import procfs
from trovectl.procfs import ProcessId
from trovectl.records import Record, Records

log = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
_LOG_LIMIT_BYTES = 16 * 1024 * 1024
_TAIL_BYTES = 2000
_ORPHAN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a process runs as; None as uid means: as ourselves."""

    name: str = ""
    uid: int | None = None
    gid: int | None = None


OURSELVES = Account()


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to start, and how to end it."""

    name: str
    argv: tuple[str, ...]
    cwd: Path
    log: Path
    account: Account = OURSELVES
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    # Seconds between the stop signal and SIGKILL.
    stop_grace: float = 15.0

    @property
    def digest(self) -> str:
        what = [
            self.name,
            self.argv,
            str(self.cwd),
            self.account.uid,
            sorted(self.environment.items()),
        ]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Pauses between restarts, seconds: first, doubled each time, up to longest."""

    first: float = 0.5
    # Short: whatever keeps dying is back within 10 s of its cause being gone.
    longest: float = 5.0
    # A process that ran this long starts over at `first`: it was up and serving, so something
    # else killed it.
    forgiven_after: float = 10.0

    def pause(self, failures: int) -> float:
        return float(min(self.longest, self.first * 2.0 ** min(failures - 1, 16)))


def become_subreaper() -> None:
    """Orphans below us become our children, not init's (PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


async def collect_orphans(stop: asyncio.Event) -> None:
    """Until `stop`: wait for dead children that nobody here started, so that none stays a zombie.

    Our own are collected by the event loop at once; what two looks in a row find is an orphan.
    """
    before: set[int] = set()
    while not await wait_or_timeout(stop, _ORPHAN_SECONDS):
        zombies = set(procfs.zombies())
        for pid in zombies & before:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222  does not wait
        before = zombies - before


class Running:
    """One living process with its pidfd."""

    def __init__(self, process: ProcessId, pidfd: int, *, is_child: bool) -> None:
        self.process = process
        self._pidfd = pidfd
        self._is_child = is_child
        self._exited = asyncio.Event()
        self.status: int | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._on_exit)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if self._is_child:
            with contextlib.suppress(ChildProcessError):
                result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
                if result is not None:
                    killed = result.si_code != os.CLD_EXITED
                    self.status = -result.si_status if killed else result.si_status
        os.close(self._pidfd)
        self._exited.set()

    @property
    def has_exited(self) -> bool:
        return self._exited.is_set()

    async def wait(self) -> int | None:
        """The exit status (negative: by signal); None when it was not our child."""
        await self._exited.wait()
        return self.status

    async def exits_within(self, seconds: float) -> bool:
        return await wait_or_timeout(self._exited, seconds)

    def send(self, number: signal.Signals) -> None:
        if not self._exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)


def spawn(command: Command) -> Running:
    """Start it in a session of its own, with nothing of our environment.

    Raises UnavailableError when the program cannot be started.
    """
    try:
        output = _open_log(command.log)
    except OSError as error:
        raise UnavailableError(f"cannot write {command.log}: {error}") from error
    try:
        child = subprocess.Popen(
            [*_as(command.account), *command.argv],
            cwd=command.cwd,
            env=dict(command.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            umask=0o077,
        )
    except OSError as error:
        raise UnavailableError(f"cannot start {command.name}: {error}") from error
    finally:
        os.close(output)
    # The exit status is collected through the pidfd; Popen must not look for it as well.
    child.returncode = 0
    return _watch(child.pid)


def _open_log(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )


def _as(account: Account) -> list[str]:
    """The words that make the rest of a command line another user's, without any privilege left.

    Not Popen's `user`: it forks, and gRPC's threads do not survive a fork (a child was seen to
    crash); without it Python uses vfork, in which nothing of ours runs.
    """
    if account.uid is None:
        return []
    return [
        *("setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"),
        *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--"),
    ]


def _watch(pid: int) -> Running:
    pidfd = os.pidfd_open(pid)
    process = procfs.identify(pid) or ProcessId(pid, 0, procfs.boot_id())
    return Running(process, pidfd, is_child=True)


def adopt(process: ProcessId) -> Running | None:
    """Watch a process that somebody else started; None when it is gone."""
    pidfd = procfs.open_pidfd(process)
    return None if pidfd is None else Running(process, pidfd, is_child=False)


async def run_once(command: Command, *, timeout: float) -> None:
    """Run a short command to its end; raises UnavailableError with the end of its output."""
    running = spawn(command)
    if not await running.exits_within(timeout):
        running.send(signal.SIGKILL)
        await running.wait()
        raise UnavailableError(f"{command.name} did not end within {timeout:g} s")
    if running.status != 0:
        raise UnavailableError(
            f"{command.name} {describe_exit(running.status)}: {tail(command.log)}"
        )


async def terminate(running: Running, number: signal.Signals, grace: float) -> None:
    """Ask, wait `grace` seconds, then kill; also what is left of its process group."""
    running.send(number)
    if not await running.exits_within(grace):
        log.warning("pid %s ignored %s for %gs: killed", running.process.pid, number.name, grace)
        running.send(signal.SIGKILL)
        await running.wait()


async def terminate_all(
    processes: Sequence[ProcessId], *, number: signal.Signals, grace: float
) -> None:
    """End processes that are not supervised: leftovers of an earlier supervisor."""
    adopted = [running for process in processes if (running := adopt(process)) is not None]
    await asyncio.gather(*(terminate(running, number, grace) for running in adopted))


async def end_engines(processes: Sequence[ProcessId], *, grace: float) -> None:
    """End engines whose agents are gone, each by a signal it takes for a wish to stop.

    SIGINT is PostgreSQL's fast shutdown, and MariaDB ignores it; SIGTERM ends MariaDB, and alone
    would let PostgreSQL wait for its clients. In this order: Redis takes a SIGINT after another
    signal for insistence and leaves at once. Only the first process of each; its children follow.
    """
    pids = {process.pid for process in processes}
    adopted = [running for process in processes if (running := adopt(process)) is not None]
    first = [each for each in adopted if procfs.parent(each.process.pid) not in pids]
    for running in first:
        running.send(signal.SIGINT)
    await asyncio.gather(*(terminate(running, signal.SIGTERM, grace) for running in first))
    rest = [each for each in adopted if each not in first]
    await asyncio.gather(*(terminate(running, signal.SIGTERM, grace) for running in rest))


def describe_exit(status: int | None) -> str:
    if status is None:
        return "ended"
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"


def tail(path: Path) -> str:
    """The last line of a log that says something, shortened; for error messages."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line]
    except OSError:
        return "no output"
    if not lines:
        return "no output"
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(lines[-1])["message"])[:500]
    return lines[-1][:500]


class Supervised:
    """One process kept running until told to stop."""

    def __init__(self, command: Command, records: Records, *, backoff: Backoff) -> None:
        self.command = command
        self.restart_count = 0
        self.reason = "not started"
        self._records = records
        self._backoff = backoff
        self._running: Running | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.started_at = 0.0

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        if self._running is None or self._running.has_exited:
            return 0
        return self._running.process.pid

    async def start(self) -> None:
        """Adopt what runs already as this very command, else start it; then keep it running.

        What an earlier supervisor started under this name as something else is ended first.
        Raises UnavailableError when the first start is impossible.
        """
        if self._task is not None:
            return
        self._running = await self._adopted() or self._spawn()
        self._task = asyncio.create_task(self._keep(), name=f"keep-{self.command.name}")

    async def _adopted(self) -> Running | None:
        record = self._records.get(self.command.name)
        running = None if record is None else adopt(record.process)
        if record is None or running is None:
            return None
        if record.digest != self.command.digest:
            await terminate(running, signal.SIGTERM, self.command.stop_grace)
            return None
        log.info("%s runs already as pid %s: adopted", self.command.name, running.process.pid)
        self._note_start(running)
        return running

    def _spawn(self) -> Running:
        running = spawn(self.command)
        try:
            self._records.set(self.command.name, Record(running.process, self.command.digest))
        except OSError:
            # A full disk must not stop it; without a record it is found by its directory.
            log.exception("%s runs without a record", self.command.name)
        self._note_start(running)
        return running

    def _note_start(self, running: Running) -> None:
        self.reason = ""
        self.started_at = time.time()
        log.info("%s started as pid %s", self.command.name, running.process.pid)

    async def _keep(self) -> None:
        failures = 0
        while True:
            if self._running is not None:
                began = time.monotonic()
                await self._running.wait()
                if self._stopping.is_set():
                    return
                how = describe_exit(self._running.status)
                self.reason = f"{how}: {tail(self.command.log)}"
                log.warning("%s %s", self.command.name, self.reason)
                if time.monotonic() - began > self._backoff.forgiven_after:
                    failures = 0
            failures += 1
            if await wait_or_timeout(self._stopping, self._backoff.pause(failures)):
                return
            self.restart_count += 1
            try:
                self._running = self._spawn()
            except UnavailableError as error:
                self._running = None
                self.reason = error.message
                log.warning("%s", error)

    async def stop(self, number: signal.Signals | None = None) -> None:
        """End it and stay down. Idempotent."""
        self._stopping.set()
        if self._running is not None and not self._running.has_exited:
            await terminate(
                self._running, number or self.command.stop_signal, self.command.stop_grace
            )
        if self._task is not None:
            await self._task
            self._task = None
        self._records.drop(self.command.name)
        self.reason = "stopped"
