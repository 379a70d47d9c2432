"""The engines' own clients, as tenants call them: from outside, with the database root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

USER = "ada"
PASSWORD = "s3cret-Pass"
DATABASE = "app"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a client printed, and whether it was let in."""

    is_in: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One engine, seen by its users."""

    datastore: str
    port: int
    has_databases: bool
    program: str  # of the server
    write: str
    read: str
    answer: str  # to `read` after `write`
    # host, statement, a private folder; then as in `ask`
    call: Callable[..., Said]

    def ask(
        self,
        host: str,
        statement: str,
        folder: Path,
        *,
        root: str,
        password: str = PASSWORD,
        user: str = USER,
        database: str = DATABASE,
    ) -> Said:
        """`root` is the file of the authority to verify with; "" is a connection without TLS."""
        return self.call(
            host, statement, folder, root=root, password=password, user=user, database=database
        )


def _run(argv: list[str], folder: Path, *, stdin: str = "", **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        argv,
        input=stdin,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def _secret(path: Path, text: str) -> str:
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


def _psql(
    host: str, statement: str, folder: Path, *, root: str, password: str, **who: str
) -> Said:
    tls = f"sslmode=verify-full sslrootcert={root}" if root else "sslmode=disable"
    target = f"host={host} dbname={who['database']} user={who['user']} {tls}"
    secret = _secret(folder / "pgpass", f"*:*:*:*:{password}\n")
    code, text = _run(
        ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", target, "-c", statement],
        folder,
        PGPASSFILE=secret,
    )
    return Said(is_in=code == 0, text=text)


def _mariadb(
    host: str, statement: str, folder: Path, *, root: str, password: str, **who: str
) -> Said:
    tls = ["--ssl-verify-server-cert", f"--ssl-ca={root}"] if root else ["--skip-ssl"]
    options = _secret(folder / "client.cnf", f"[client]\npassword={password}\n")
    argv = ["mariadb", f"--defaults-file={options}", f"--host={host}", f"--user={who['user']}"]
    argv += [*tls, "-BN", f"--execute={statement}", who["database"]]
    code, text = _run(argv, folder)
    return Said(is_in=code == 0, text=text)


def _redis(
    host: str, statement: str, folder: Path, *, root: str, password: str, **who: str
) -> Said:
    tls = ["--tls", "--cacert", root] if root else []
    stdin = f"AUTH {who['user']} {password}\n{statement}\n"
    _, text = _run(["redis-cli", "-h", host, *tls], folder, stdin=stdin)
    first, _, rest = text.partition("\n")
    return Said(is_in=first == "OK", text=rest if first == "OK" else text)


CLIENTS = {
    client.datastore: client
    for client in (
        Client(
            datastore="postgresql",
            port=5432,
            has_databases=True,
            program="/postgres",
            write="CREATE TABLE kept AS SELECT 42 AS answer",
            read="SELECT answer FROM kept",
            answer="42",
            call=_psql,
        ),
        Client(
            datastore="mariadb",
            port=3306,
            has_databases=True,
            program="/mariadbd",
            write="CREATE TABLE kept AS SELECT 42 AS answer",
            read="SELECT answer FROM kept",
            answer="42",
            call=_mariadb,
        ),
        Client(
            datastore="redis",
            port=6379,
            has_databases=False,
            program="redis-server",
            write="SET kept 42",
            read="GET kept",
            answer="42",
            call=_redis,
        ),
    )
}
