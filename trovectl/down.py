"""`trovectl down`: ask the supervisor to stop, and wait until it has."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from trove_grpc.errors import DeadlineError
from trovectl import lock, procfs
from trovectl.layout import Layout

# Every engine writes a checkpoint, every process drains.
_SECONDS = 180.0
_POLL_SECONDS = 0.1


def stop(state: Path) -> str:
    """Stop the installation in `state`; says what was done."""
    path = Layout(state).lock
    pid = lock.holder_of(path)
    process = procfs.identify(pid) if pid > 0 else None
    if process is None:
        return f"nothing runs in {state}"
    procfs.send(process, signal.SIGTERM)
    ends = time.monotonic() + _SECONDS
    while procfs.is_alive(process):
        if time.monotonic() > ends:
            raise DeadlineError(
                f"the supervisor, pid {pid}, did not stop within {_SECONDS:g} s; "
                f"see {Layout(state).log('supervisor')}"
            )
        time.sleep(_POLL_SECONDS)
    return f"stopped what ran in {state}"
