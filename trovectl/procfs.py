"""Processes of this machine, named so that a reused pid is never mistaken for an old one.

A process is (pid, start time, boot id). Our processes make themselves undumpable, which hides
/proc/<pid>/cwd from their own user; their command lines stay readable, so both are looked at.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process for ever: no later one has the same."""

    pid: int
    start_ticks: int  # clock ticks after boot
    boot_id: str


def boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> ProcessId | None:
    """The process that has `pid` now; None when there is none or only its zombie."""
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return ProcessId(pid, int(fields[19]), boot_id())


def is_alive(process: ProcessId) -> bool:
    return identify(process.pid) == process


def open_pidfd(process: ProcessId) -> int | None:
    """A pidfd for exactly this process; None when it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return None
    # Looked at after opening: had the pid been reused before, the start time would differ.
    if is_alive(process):
        return handle
    os.close(handle)
    return None


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Signal exactly this process; False when it is gone."""
    handle = open_pidfd(process)
    if handle is None:
        return False
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def parent(pid: int) -> int:
    """The pid of its parent; 0 when it is gone."""
    fields = _stat(pid)
    return 0 if fields is None else int(fields[1])


def under(root: Path) -> list[ProcessId]:
    """Living processes, ourselves apart, whose directory or arguments lie under `root`."""
    prefix = f"{root}{os.sep}"
    found = []
    for pid in _pids():
        if pid != os.getpid() and _mentions(pid, str(root), prefix):
            process = identify(pid)
            if process is not None:
                found.append(process)
    return found


def arguments(pid: int) -> list[str]:
    """The command line, empty when it cannot be read."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return []


def zombies() -> list[int]:
    """Pids of our own children that wait to be collected."""
    mine = []
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None and fields[0] == "Z" and int(fields[1]) == os.getpid():
            mine.append(pid)
    return mine


def uids() -> set[int]:
    """Users that own a living process."""
    found = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            status = (PROC / str(pid) / "status").read_text()
            found.add(int(status.partition("\nUid:")[2].split(maxsplit=1)[0]))
    return found


def holder(address: str, port: int) -> str:
    """Who listens on the TCP port, for people: "pid 12 (nginx)"; says so when unknown."""
    inodes = _listening_inodes(address, port)
    if not inodes:
        return "a process that cannot be named (it may have gone by now)"
    links = {f"socket:[{inode}]" for inode in inodes}
    for pid in _pids():
        with contextlib.suppress(OSError):
            for handle in (PROC / str(pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(handle.readlink()) in links:
                        return f"pid {pid} ({' '.join(arguments(pid))[:120] or 'no command line'})"
    return "a process of another user (`ss -ltnp` as root names it)"


def _pids() -> Iterator[int]:
    for path in PROC.iterdir():
        if path.name.isdigit():
            yield int(path.name)


def _stat(pid: int) -> list[str] | None:
    """/proc/<pid>/stat from the state on; the name before it may hold anything."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None


def _mentions(pid: int, root: str, prefix: str) -> bool:
    with contextlib.suppress(OSError):
        cwd = str((PROC / str(pid) / "cwd").readlink()).removesuffix(" (deleted)")
        if cwd == root or cwd.startswith(prefix):
            return True
    # Only what we start ourselves: `python … -m <module> --config <file under root>`.
    argv = arguments(pid)
    return "-m" in argv and any(
        flag in {"--config", "--socket"} and value.startswith(prefix)
        for flag, value in itertools.pairwise(argv)
    )


def _listening_inodes(address: str, port: int) -> set[str]:
    quad = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
    wanted = {f"{quad}:{port:04X}", f"00000000:{port:04X}"}
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                local = fields[1]
                if fields[3] == "0A" and (
                    local in wanted or (table == "tcp6" and local.endswith(f":{port:04X}"))
                ):
                    inodes.add(fields[9])
    return inodes
