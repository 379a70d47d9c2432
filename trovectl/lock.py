"""One supervisor for each state directory: an flock that the kernel drops when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from trove_grpc.errors import ConflictError


def holder_of(path: Path) -> int:
    """The pid of the living supervisor of this lock file; 0 when there is none."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(handle, 32).decode(errors="replace").strip()
        return int(text) if text.isdigit() else -1
    finally:
        os.close(handle)
    return 0


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock; raises ConflictError that names the pid of the other holder."""
    # Never inherited: a child that kept it open would hold the lock after our death.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            raise ConflictError(
                f"{path.parent} is in use by another `trovectl up`, pid {pid}; "
                f"stop it (`trovectl down --state-dir {path.parent}`) or choose another directory",
                reason="STATE_IN_USE",
                subject=str(path.parent),
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
