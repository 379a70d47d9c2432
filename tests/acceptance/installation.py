"""A real installation under test: `trovectl up` in a directory of its own, driven from outside."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.acceptance.engine_clients import CLIENTS
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.tls import IdentityDirectory, anchors
from trovectl import ports, procfs
from trovectl.procfs import ProcessId

BIN = Path(sys.executable).parent
PROJECT = "acceptance"
UP_SECONDS = 120
BUILD_SECONDS = 120


def eventually(claim: Callable[[], Any], what: str, *, within: float = 60) -> Any:
    """The first true value of `claim`; fails with `what` and the last value after `within` s."""
    ends = time.monotonic() + within
    while not (value := claim()):
        if time.monotonic() > ends:
            raise AssertionError(f"not within {within:g} s: {what} (last: {value!r})")
        time.sleep(0.1)
    return value


def files_below(folder: Path) -> Iterator[Path]:
    """Every file of a tree that changes meanwhile; rglob ends where a directory vanishes."""
    for directory, _, names in os.walk(folder):
        yield from (Path(directory, name) for name in names)


class Installation:
    """One state directory with its supervisor, REST API and guests."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        self.state = folder / "state"
        self.rest = f"127.0.0.1:{ports.choose(taken=set())}"
        self.arguments = arguments
        self.settings = settings
        self.supervisor: subprocess.Popen[str] | None = None
        self.said: list[str] = []

    # The supervisor.

    def up(self) -> None:
        """Start and return when it says that it is ready."""
        argv = [sys.executable, "-m", "trovectl", "up", "--state-dir", str(self.state)]
        argv += ["--rest-listen", self.rest]
        argv += self.arguments
        for name, value in self.settings.items():
            argv += ["--set", f"{name.replace('__', '.')}={value}"]
        self.supervisor = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/"
        )
        assert self.supervisor.stdout is not None
        for line in self.supervisor.stdout:
            self.said.append(line.rstrip())
            if line.startswith("ready:"):
                return
        self.supervisor.wait(30)
        raise AssertionError(f"up ended before it was ready: {self.said}\n{self.logs()}")

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send Ctrl-C and return the exit status."""
        assert self.supervisor is not None
        self.supervisor.send_signal(number)
        output, _ = self.supervisor.communicate(timeout=120)
        self.said += output.splitlines()
        return self.supervisor.returncode

    def kill_everything(self) -> None:
        """kill -9 of the whole tree, supervisor first, as a power cut would."""
        assert self.supervisor is not None
        self.supervisor.kill()
        self.supervisor.wait(10)
        eventually(self._kill_rest, "every process gone")
        assert self.supervisor.stdout is not None
        self.supervisor.stdout.close()

    def _kill_rest(self) -> bool:
        left = self.processes()
        for process in left:
            procfs.send(process, signal.SIGKILL)
        return not left

    def processes(self) -> list[ProcessId]:
        """Everything that runs with its working directory below ours."""
        return [process for process in procfs.under(self.state) if procfs.is_alive(process)]

    def pid_of(self, name: str) -> int:
        """The pid of a control-plane process."""
        (process,) = (
            each for each in self.status()["processes"] if each["name"] == name and each["pid"]
        )
        return int(process["pid"])

    def logs(self) -> str:
        """The end of every log, for failures that must be readable alone."""
        paths = [
            *sorted((self.state / "logs").glob("*.log")),
            *sorted((self.state / "guests").glob("*/*/*.log")),
        ]
        return "\n".join(
            f"--- {path}\n{path.read_text(errors='replace')[-1500:]}" for path in paths
        )

    def trovectl(self, verb: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "trovectl", verb, "--state-dir", str(self.state), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.trovectl("status", "--output", "json"))
        return found

    # Users.

    def request(
        self, method: str, path: str, body: object = None, *, project: str = PROJECT
    ) -> tuple[int, Any]:
        """One REST request below /v1.0/<project>; (status, decoded body)."""
        data = None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(*self.rest.split(":"), timeout=30)  # type: ignore[arg-type]
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"} if data else {}
            connection.request(method, f"/v1.0/{project}{path}", data, headers)
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content else None

    def instance(self, instance_id: str) -> dict[str, Any]:
        status, body = self.request("GET", f"/instances/{instance_id}")
        assert status == 200, body
        found: dict[str, Any] = body["instance"]
        return found

    def create(
        self, name: str, *, password: str = "s3cret-Pass", datastore: str = "postgresql"
    ) -> str:
        """POST an instance with user `ada`, and database `app` where there are any; its id."""
        user: dict[str, Any] = {"name": "ada", "password": password}
        databases = [{"name": "app"}] if CLIENTS[datastore].has_databases else []
        if databases:
            user["databases"] = databases
        status, body = self.request(
            "POST",
            "/instances",
            {
                "instance": {
                    "name": name,
                    "flavorRef": "1",
                    "volume": {"size": 1},
                    "datastore": {"type": datastore},
                    "databases": databases,
                    "users": [user],
                }
            },
        )
        assert status == 200, body
        return str(body["instance"]["id"])

    def await_healthy(self, instance_id: str, *, within: float = BUILD_SECONDS) -> dict[str, Any]:
        def healthy() -> dict[str, Any] | None:
            found = self.instance(instance_id)
            assert found["status"] != "ERROR", f"{found.get('fault')}\n{self.logs()}"
            ready = (found["status"], found["operating_status"]) == ("ACTIVE", "HEALTHY")
            return found if ready else None

        try:
            found: dict[str, Any] = eventually(healthy, "ACTIVE and HEALTHY", within=within)
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{self.operations(instance_id)}\n{self.logs()}"
            ) from None
        return found

    def await_gone(self, instance_id: str) -> None:
        eventually(
            lambda: self.request("GET", f"/instances/{instance_id}")[0] == 404,
            f"{instance_id} deleted",
        )

    def operations(self, instance_id: str) -> list[dict[str, Any]]:
        _, body = self.request("GET", f"/instances/{instance_id}/operations")
        return list(body.get("operations", [body]))

    def openstack(self, *arguments: str) -> Any:
        """The real client: `openstack database instance …`, JSON where it has any."""
        endpoint = f"http://{self.rest}/v1.0/{PROJECT}"
        done = subprocess.run(
            [
                str(BIN / "openstack"),
                *("--os-auth-type", "none", "--os-endpoint", endpoint, "database"),
                *arguments,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={key: value for key, value in os.environ.items() if not key.startswith("OS_")},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if "json" in arguments else done.stdout

    # Databases.

    def psql(
        self,
        host: str,
        statement: str,
        *,
        user: str = "ada",
        password: str = "s3cret-Pass",
        database: str = "app",
        tls: str = "sslmode=verify-full",
    ) -> subprocess.CompletedProcess[str]:
        """Run psql as a tenant would; the password goes through a private file."""
        with tempfile.TemporaryDirectory() as folder:
            bundle = IdentityDirectory(self.state / "operator" / "identity").bundle()
            root = Path(folder) / "root.pem"
            root.write_bytes(anchors(bundle, {trust_pb2.AUTHORITY_KIND_DATABASE_ROOT}))
            secret = Path(folder) / "pgpass"
            secret.touch(mode=0o600)
            secret.write_text(f"*:*:*:*:{password}\n")
            target = f"host={host} dbname={database} user={user} {tls} sslrootcert={root}"
            return subprocess.run(
                ["psql", "-XAt", "-v", "ON_ERROR_STOP=1", target, "-c", statement],
                env={"PATH": os.environ["PATH"], "PGPASSFILE": str(secret), "HOME": folder},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

    def query(self, host: str, statement: str, **options: str) -> str:
        done = self.psql(host, statement, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def postmaster(self, instance_id: str) -> ProcessId:
        (found,) = (
            process
            for process in procfs.under(self.state / "guests" / instance_id)
            if procfs.arguments(process.pid)[:1] and is_postmaster(process.pid)
        )
        return found


def is_postmaster(pid: int) -> bool:
    """Its children show a title instead of arguments."""
    argv = procfs.arguments(pid)
    return argv[0].endswith("/postgres") and "-D" in argv


@contextlib.contextmanager
def installation(*arguments: str, **settings: str) -> Iterator[Installation]:
    """An installation in a directory that other users may pass through; nothing outlives it.

    `arguments` are more of `trovectl up`'s, `settings` those for its --set.
    """
    folder = Path(tempfile.mkdtemp(prefix="trove-test-"))
    folder.chmod(0o711)
    made = Installation(folder, *arguments, **settings)
    try:
        made.up()
        yield made
    finally:
        if made.supervisor is not None and made.supervisor.poll() is None:
            made.stop()
        left = made.processes()
        for process in left:
            procfs.send(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        assert not left, f"left running: {left}"
