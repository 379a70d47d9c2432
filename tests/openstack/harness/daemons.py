"""Background processes of one cloud: started with a socket of ours, found and ended by pid.

A pid file holds the pid and the kernel's start time of the process: a pid that went to somebody
else is never signalled.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.openstack.harness.state import HarnessError, State

_LOOPBACK = "127.0.0.1"
_PAUSE = 0.05  # seconds between two looks
_TERM_SECONDS = 6
_KILL_SECONDS = 5


def bind(preferred_port: int | None = None) -> socket.socket:
    """A socket on the loopback that its server inherits: nobody can take the port in between."""
    for port in (preferred_port, 0):
        if port is None:
            continue
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((_LOOPBACK, port))
        except OSError:
            bound.close()
            continue
        return bound
    raise HarnessError("no port is free on the loopback")


def start_time(pid: int) -> str | None:
    """The kernel's start time of a live process; None for a dead one or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def running(state: State, name: str) -> int | None:
    """The pid of a daemon that we started and that lives."""
    file = _pid_file(state, name)
    if not file.exists():
        return None
    pid, started = file.read_text().split()
    return int(pid) if start_time(int(pid)) == started else None


def spawn(
    state: State,
    name: str,
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    inherit: socket.socket,
) -> subprocess.Popen[bytes]:
    """Start a daemon that owns `inherit`; its descriptor's number is the same over there."""
    with state.log(name).open("ab") as log:
        process = subprocess.Popen(
            [*argv, str(inherit.fileno())],
            env=environment,
            cwd=state.root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[inherit.fileno()],
        )
    inherit.close()
    _pid_file(state, name).write_text(f"{process.pid} {start_time(process.pid)}\n")
    return process


def stop(state: State, name: str, child: subprocess.Popen[bytes] | None) -> None:
    """End a daemon: TERM, then KILL. Nothing happens when it does not run.

    `child` is the daemon when this process started it: only its parent can reap it.
    """
    for number, seconds in ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
        pid = running(state, name)
        if pid is None:
            if child is not None:
                child.wait()
            _pid_file(state, name).unlink(missing_ok=True)
            return
        os.kill(pid, number)
        ends = time.monotonic() + seconds
        while running(state, name) is not None and time.monotonic() < ends:
            if child is not None:
                child.poll()
            time.sleep(_PAUSE)
    raise HarnessError(f"{name} (pid {pid}) does not end")


def wait_until_it_answers(state: State, name: str, url: str, *, seconds: float = 120) -> None:
    """Wait for any HTTP answer that is not a server's failure."""
    ends = time.monotonic() + seconds
    last = "no answer"
    while time.monotonic() < ends:
        if running(state, name) is None:
            raise HarnessError(f"{name} ended at once; its log ends:\n{state.tail(name)}")
        try:
            with urllib.request.urlopen(url, timeout=20):  # noqa: S310  ours, on the loopback
                return
        except urllib.error.HTTPError as error:
            if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                return
            last = str(error)
        except (OSError, http.client.HTTPException) as error:
            last = str(error)
        time.sleep(_PAUSE)
    raise HarnessError(f"{name} at {url}: {last}; its log ends:\n{state.tail(name)}")


def run(state: State, name: str, argv: Sequence[str], *, environment: Mapping[str, str]) -> None:
    """Run a command to its end; its output goes to the log of `name`."""
    with state.log(name).open("ab") as log:
        done = subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
            timeout=600,
        )
    if done.returncode:
        raise HarnessError(
            f"{' '.join(argv[:2])} exited {done.returncode}; its log ends:\n{state.tail(name)}"
        )


def _pid_file(state: State, name: str) -> Path:
    return state.root / "run" / f"{name}.pid"
