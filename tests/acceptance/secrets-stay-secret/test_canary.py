"""A password given at create is found nowhere, though every process dies once in between."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tests.acceptance.installation import eventually, files_below, installation
from trovectl import procfs

CANARY = "Kanarienvogel-9c41d7e2"


def files_with(folder: Path, needle: bytes) -> list[str]:
    """Every file below `folder` that holds `needle`: databases, their logs, WAL, settings."""
    found = []
    for path in files_below(folder):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink() and needle in path.read_bytes():
                found.append(str(path))
    return found


def processes_with(folder: Path, needle: bytes) -> list[str]:
    """Processes below `folder` whose environment or command line holds `needle`."""
    found = []
    for process in procfs.under(folder):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if needle in Path(f"/proc/{process.pid}/{name}").read_bytes():
                    found.append(f"{process.pid} {name}")
    return found


def test_a_canary_password_is_found_nowhere():
    with installation() as plane:
        seen: list[str] = []

        def look() -> None:
            seen.extend(files_with(plane.state, CANARY.encode()))
            seen.extend(processes_with(plane.state, CANARY.encode()))

        instance_id = plane.create("canary", password=CANARY)
        look()
        # One process after another dies, at whatever point the flow has reached.
        for name in ("taskmanager", "conductor", "issuer", "gateway", "api"):
            pid = plane.pid_of(name)
            os.kill(pid, 9)
            look()
            eventually(
                lambda name=name, pid=pid: any(
                    each["name"] == name and each["ready"] and each["pid"] != pid
                    for each in plane.status()["processes"]
                ),
                f"{name} ready again",
            )
            look()
        (host,) = plane.await_healthy(instance_id)["ip"]
        for guest in plane.status()["guests"]:
            os.kill(guest["agent_pid"], 9)
        plane.await_healthy(instance_id)
        look()
        # It is the password all the same.
        assert plane.query(host, "SELECT 1", password=CANARY) == "1"
        look()
        assert seen == []
        # The search can find: the verifier's algorithm stands in the engine's own catalogue.
        assert files_with(plane.state / "guests", b"SCRAM-SHA-256$")
        # When the operation has ended, the control plane holds no verifier either.
        for process in ("conductor", "taskmanager", "issuer", "gateway", "api", "logs"):
            assert files_with(plane.state / process, b"SCRAM-SHA-256$") == []
