"""An installation whose state lies in PostgreSQL or MariaDB, and goes away for a while."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.installation import Installation, eventually, files_below, installation
from tests.fakes.database_servers import DatabaseServer, database_server
from trovectl import procfs

# `make test-state` takes ten minutes for it.
OUTAGE_SECONDS = float(os.environ.get("TROVE_TEST_OUTAGE_SECONDS", "10"))
# The flow log's engine asks a database that was away again after a minute and a half at most.
RECOVERY_SECONDS = 240

USES = {
    "postgresql": ("conductor", "issuer", "taskmanager"),
    "mariadb": ("conductor", "issuer"),  # the flow log stays in SQLite
}


@pytest.fixture(params=USES)
def server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    with database_server(request.param) as server:
        yield server


@pytest.fixture
def password() -> str:
    return f"canary-{secrets.token_hex(12)}"


@pytest.fixture
def made(
    request: pytest.FixtureRequest, server: DatabaseServer, password: str, tmp_path: Path
) -> Iterator[Installation]:
    file = tmp_path / "password"
    file.touch(mode=0o600)
    file.write_text(f"{password}\n")
    arguments: list[str] = []
    for process in USES[request.node.callspec.params["server"]]:
        url = server.protect(server.new_database(), password)
        arguments += ["--database-url", f"{process}={url}"]
        arguments += ["--database-password-file", f"{process}={file}"]
    with installation(*arguments) as made:
        yield made


def unready(made: Installation) -> set[str]:
    return {each["name"] for each in made.status()["processes"] if not each["ready"]}


def test_outage_loses_and_doubles_nothing_and_readiness_shows_it(
    made: Installation, server: DatabaseServer, password: str
) -> None:
    first = made.create("first")
    address = made.await_healthy(first)["ip"][0]
    second = made.create("second")

    server.stop()
    ends = time.monotonic() + OUTAGE_SECONDS
    # What happens meanwhile is told afterwards.
    procfs.send(made.postmaster(first), signal.SIGKILL)
    eventually(lambda: {"conductor", "issuer"} <= unready(made), "not ready", within=30)
    status, body = made.request("GET", f"/instances/{first}")
    assert status == 503, body
    eventually(lambda: time.monotonic() > ends, "outage", within=OUTAGE_SECONDS + 1)
    server.start()

    eventually(lambda: not unready(made), "ready again", within=RECOVERY_SECONDS)
    for instance in (first, second):
        made.await_healthy(instance, within=RECOVERY_SECONDS)
    assert made.query(address, "SELECT 1") == "1"
    _, body = made.request("GET", "/instances")
    assert {each["id"] for each in body["instances"]} == {first, second}
    assert {each["instance"] for each in made.status()["guests"]} == {first, second}
    for instance in (first, second):
        (operation,) = made.operations(instance)
        assert operation["state"] == "SUCCEEDED", operation
        assert {step["state"] for step in operation["steps"]} == {"SUCCEEDED"}, operation
        made.request("DELETE", f"/instances/{instance}")
        made.await_gone(instance)
    _, limits = made.request("GET", "/limits")
    assert password not in _everything_shown(made), "the password lies in its own files alone"
    assert limits["limits"], limits


def _everything_shown(made: Installation) -> str:
    """Settings, logs, records, and the arguments and environment of every process."""
    texts = [
        path.read_text(errors="replace")
        for path in files_below(made.state)
        if path.is_file() and path.name != "database.password"
    ]
    for process in made.processes():
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                texts.append(Path(f"/proc/{process.pid}/{name}").read_text(errors="replace"))
    return "\n".join(texts)
