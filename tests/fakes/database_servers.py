"""Private database servers from Debian's binaries, on UNIX sockets alone.

They can be stopped and started again while clients run: that is what an outage looks like.
Servers refuse to run as root, so a root test run borrows the user Debian made for each.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_SECONDS = 60


class DatabaseServer:
    """One server with its files; `new_database` gives URLs of empty databases."""

    def __init__(self, *system_users: str) -> None:
        """As root the first of these users that exists runs it."""
        is_root = os.geteuid() == 0
        self.account = _first(system_users) if is_root else pwd.getpwuid(os.geteuid())
        self.as_owner: dict[str, Any] = (
            {"user": self.account.pw_uid, "group": self.account.pw_gid} if is_root else {}
        )
        # Not pytest's directory: other users cannot enter that, and socket paths must be short.
        self.root = Path(tempfile.mkdtemp(prefix="trove-db-"))
        # Other users' processes connect too.
        self.root.chmod(0o711)
        os.chown(self.root, self.account.pw_uid, self.account.pw_gid)

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Stop as a power cut does: nothing is written any more."""
        raise NotImplementedError

    def new_database(self) -> str:
        """The SQLAlchemy URL of a fresh, empty database; no password is asked for."""
        raise NotImplementedError

    def protect(self, database_url: str, password: str) -> str:
        """A URL of the same database, for a user who needs `password`."""
        raise NotImplementedError

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, *argv: str, text: str | None = None) -> str:
        done = subprocess.run(
            argv,
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=self.root,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
            **self.as_owner,
        )
        if done.returncode:
            raise RuntimeError(f"{argv[0]} failed: {done.stdout}\n{self._log_end()}")
        return done.stdout

    def _log_end(self) -> str:
        log = self.root / "log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""


def _first(names: tuple[str, ...]) -> pwd.struct_passwd:
    known = {account.pw_name: account for account in pwd.getpwall()}
    return next(known[name] for name in names if name in known)


class PostgresqlServer(DatabaseServer):
    """PostgreSQL; users other than `trove` need their password."""

    def __init__(self) -> None:
        binaries = sorted(
            Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2])
        )
        if not binaries:
            raise RuntimeError("PostgreSQL is not installed; run `make setup`")
        super().__init__("postgres")
        self._binaries = binaries[-1]
        self._data = self.root / "data"
        self.run(
            *(str(self._binaries / "initdb"), "--auth=trust", "--encoding=UTF8", "--locale=C"),
            *("--username=trove", "--no-sync", f"--pgdata={self._data}"),
        )
        rules = "local all trove trust\nlocal all all scram-sha-256\n"
        self.run("/usr/bin/tee", str(self._data / "pg_hba.conf"), text=rules)

    def start(self) -> None:
        settings = (
            f"-c listen_addresses='' -c unix_socket_directories={self.root} -c fsync=off "
            "-c shared_buffers=16MB -c max_connections=100"
        )
        # Its output goes to a file: the server would keep a pipe open.
        subprocess.run(
            [*self._pg_ctl(), "start", f"--log={self.root / 'log'}", f"--options={settings}"],
            check=True,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self.as_owner,
        )

    def stop(self) -> None:
        self.run(*self._pg_ctl(), "stop", "--mode=immediate")

    def new_database(self) -> str:
        name = f"t{uuid.uuid4().hex}"
        self.psql(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://trove@/{name}?host={self.root}"

    def protect(self, database_url: str, password: str) -> str:
        name = database_url.partition("@/")[2].partition("?")[0]
        user = f"u{uuid.uuid4().hex}"
        self.psql(
            f"CREATE USER {user} PASSWORD '{password}'; ALTER DATABASE {name} OWNER TO {user}"
        )
        return database_url.replace("trove@", f"{user}@")

    def psql(self, statements: str) -> str:
        return self.run(
            *("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "trove", "-h", str(self.root)),
            "postgres",
            text=statements,
        )

    def _pg_ctl(self) -> list[str]:
        return [str(self._binaries / "pg_ctl"), f"--pgdata={self._data}", "--wait"]


class MariadbServer(DatabaseServer):
    """MariaDB; its system user needs no password, users of `protect` do."""

    def __init__(self) -> None:
        if not Path("/usr/sbin/mariadbd").exists():
            raise RuntimeError("MariaDB is not installed; run `make setup`")
        super().__init__("mysql", "nobody")  # Debian's mariadb-server-core makes no user
        self._data, self._socket = self.root / "data", self.root / "socket"
        self._process: subprocess.Popen[bytes] | None = None
        self.run(
            *("mariadb-install-db", "--no-defaults", f"--datadir={self._data}"),
            *("--auth-root-authentication-method=normal", "--skip-test-db"),
        )

    def start(self) -> None:
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("/usr/sbin/mariadbd", "--no-defaults", f"--datadir={self._data}"),
                    *(f"--socket={self._socket}", "--skip-networking"),
                    f"--pid-file={self.root / 'pid'}",
                    *("--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=16M"),
                    # An operator's server may well compare text without regard to case.
                    *("--character-set-server=utf8mb4", "--collation-server=utf8mb4_general_ci"),
                ],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self.as_owner,
            )
        ends = time.monotonic() + START_SECONDS
        while True:
            try:
                self.sql("SELECT 1")
            except RuntimeError:
                if self._process.poll() is not None or time.monotonic() > ends:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def new_database(self) -> str:
        name = f"t{uuid.uuid4().hex}"
        self.sql(f"CREATE DATABASE {name}")
        return f"mariadb+pymysql://root@/{name}?unix_socket={self._socket}"

    def protect(self, database_url: str, password: str) -> str:
        name = database_url.partition("@/")[2].partition("?")[0]
        user = f"u{uuid.uuid4().hex[:12]}"
        self.sql(
            f"CREATE USER {user}@localhost IDENTIFIED BY '{password}';"
            f"GRANT ALL ON {name}.* TO {user}@localhost"
        )
        return database_url.replace("root@", f"{user}@")

    def sql(self, statements: str) -> str:
        return self.run(
            *("mariadb", "--no-defaults", f"--socket={self._socket}", "--user=root", "-BN"),
            text=statements,
        )


KINDS: dict[str, type[DatabaseServer]] = {
    "postgresql": PostgresqlServer,
    "mariadb": MariadbServer,
}


@contextlib.contextmanager
def database_server(kind: str) -> Iterator[DatabaseServer]:
    """A running server of this kind; it and its files go afterwards."""
    server = KINDS[kind]()
    try:
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(RuntimeError):  # a test may have stopped it
                server.stop()
    finally:
        server.remove()
