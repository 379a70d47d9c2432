"""Which executors of one flow log are alive: the question, and the kernel's answer.

On SQLite every executor holds an exclusive `flock` on a file of its own beside the SQLite file.
The kernel drops it when the process dies, however it dies: no clock, no lease, no false takeover.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

from trove_grpc.errors import ConflictError, InvalidRequestError

_EXECUTOR_ID = re.compile(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")
# flock and SQLite's WAL are only right on a disk of this machine.
_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs"}
)


class Liveness(Protocol):
    """What flows ask about executors, their own included."""

    async def acquire(self) -> None:
        """Become this executor; raises ConflictError while another process is."""

    async def release(self) -> None:
        """Stop being it."""

    async def keep(self, on_lapse: Callable[[], Awaitable[None]]) -> None:
        """Stay it until cancelled; `on_lapse` runs when others may have thought us dead."""

    async def wait_until_sure(self) -> None:
        """Return once nobody can hold this executor for dead: a step may start."""

    async def check(self) -> None:
        """Raise UnavailableError when the flow log does not answer."""

    def holding_dead(self, executor_id: str) -> contextlib.AbstractAsyncContextManager[bool]:
        """Whether that executor is dead; while inside, it cannot come back."""


def check_executor_id(executor_id: str) -> None:
    if not _EXECUTOR_ID.match(executor_id):
        raise InvalidRequestError(
            f"executor_id {executor_id!r}: use lower-case letters, digits, dot, dash"
        )


class FileLiveness:
    """This executor's lock on a file, and a look at the others'."""

    def __init__(self, directory: Path, executor_id: str) -> None:
        check_executor_id(executor_id)
        self._directory = directory
        self._executor_id = executor_id
        self._handle: int | None = None

    async def acquire(self) -> None:
        """Take this executor's lock; raises ConflictError while another process holds it."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = self._open(self._executor_id)
        if not _try_lock(handle):
            os.close(handle)
            raise ConflictError(
                f"another task manager runs as executor {self._executor_id!r} on this flow log "
                f"({self._directory}); stop it, or give this one another executor_id",
                reason="EXECUTOR_TAKEN",
            )
        self._handle = handle

    async def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    async def keep(self, on_lapse: Callable[[], Awaitable[None]]) -> None:
        """Nothing to do: the kernel keeps the lock, and never takes it away."""
        await asyncio.Event().wait()

    async def wait_until_sure(self) -> None:
        """We run, so we hold the lock."""

    async def check(self) -> None:
        """A file of this machine is there, or nothing else is either."""

    @contextlib.asynccontextmanager
    async def holding_dead(self, executor_id: str) -> AsyncIterator[bool]:
        """Whether that executor is dead; while inside, it cannot come back."""
        if not _EXECUTOR_ID.match(executor_id):
            yield False
            return
        handle = self._open(executor_id)
        try:
            yield _try_lock(handle)
        finally:
            os.close(handle)

    def _open(self, executor_id: str) -> int:
        path = self._directory / f"{executor_id}.lock"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def refuse_network_disk(path: Path) -> None:
    """Raise InvalidRequestError when `path` lies on a file system of another machine."""
    kind = _file_system(path.resolve(), Path("/proc/self/mounts").read_text())
    if kind in _NETWORK_FILE_SYSTEMS:
        raise InvalidRequestError(
            f"the flow log {path} is on {kind}; SQLite needs a disk of this machine: "
            "set flow_database_url to a local path"
        )


def _file_system(path: Path, mounts: str) -> str:
    """The type of the longest mount point above `path`, as /proc/self/mounts tells it."""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
