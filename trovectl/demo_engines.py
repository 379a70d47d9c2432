"""What the demo does with each engine: how it is created, written to and read from.

Every client verifies the server: psql and mariadb its address too, redis-cli, which cannot, its
authority. No password is in an argument or an environment.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trove_grpc.errors import UnavailableError
from trove_grpc.tls import write_atomically
from trovectl import procfs

DATABASE = "shop"
USER = "alice"
_CLIENT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where an instance listens, and what its user needs."""

    host: str
    password: str
    authority: Path  # PEM of the database root


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A client's command line; `shown` is what a person would type."""

    argv: tuple[str, ...]
    shown: str
    stdin: str = ""
    # Leading lines of its output that say nothing, such as the answer to AUTH.
    skipped_lines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine's part of the play."""

    datastore: str
    title: str
    create: tuple[str, ...]  # options of `openstack database instance create`
    write: str
    read: str
    # The command for a statement; secrets go into files of the folder, which is removed after.
    command: Callable[[Access, str, Path], Command]
    is_server: Callable[[list[str]], bool]  # by its arguments


def run(engine: Engine, access: Access, statement: str) -> tuple[str, str]:
    """The command as it would be typed, and what it printed. Raises UnavailableError."""
    with tempfile.TemporaryDirectory() as folder:
        command = engine.command(access, statement, Path(folder))
        try:
            done = subprocess.run(
                command.argv,
                input=command.stdin,
                env={
                    "PATH": "/usr/local/bin:/usr/bin:/bin",
                    "HOME": folder,
                    "LANG": "C.UTF-8",
                    "PGPASSFILE": f"{folder}/pgpass",
                },
                capture_output=True,
                text=True,
                timeout=_CLIENT_SECONDS,
                check=False,
            )
        except FileNotFoundError as error:
            program = command.argv[0]
            raise UnavailableError(f"there is no {program} on PATH; run `make setup`") from error
    # redis-cli tells of errors on standard output, with status 0.
    lines = done.stdout.rstrip().splitlines()
    if done.returncode or any(line.startswith(("ERR ", "WRONGPASS", "NOAUTH")) for line in lines):
        said = done.stderr.strip() or done.stdout.strip()
        raise UnavailableError(f"{command.argv[0]} failed: {said}")
    return command.shown, "\n".join(lines[command.skipped_lines :])


def server_of(engine: Engine, folder: Path) -> procfs.ProcessId | None:
    """The engine's process of the guest in this folder."""
    for process in procfs.under(folder):
        argv = procfs.arguments(process.pid)
        if argv[:1] and engine.is_server(argv):
            return process
    return None


def _psql(access: Access, statement: str, folder: Path) -> Command:
    secret = f"{access.host}:*:*:*:{access.password}\n".encode()
    write_atomically(folder / "pgpass", secret, mode=0o600)
    target = (
        f"host={access.host} dbname={DATABASE} user={USER} "
        f"sslmode=verify-full sslrootcert={access.authority}"
    )
    return Command(
        argv=("psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", target, "-c", statement),
        shown=f'psql "{target}" -c "{statement}"',
    )


def _mariadb(access: Access, statement: str, folder: Path) -> Command:
    options = folder / "client.cnf"
    write_atomically(options, f"[client]\npassword={access.password}\n".encode(), mode=0o600)
    arguments = (
        f"--host={access.host} --user={USER} "
        f"--ssl-verify-server-cert --ssl-ca={access.authority} {DATABASE}"
    )
    return Command(
        argv=(
            *("mariadb", f"--defaults-file={options}", "--table", *arguments.split(" ")),
            f"--execute={statement}",
        ),
        shown=f'mariadb {arguments} --password --execute="{statement}"',
    )


def _redis(access: Access, statement: str, folder: Path) -> Command:  # noqa: ARG001  no file
    arguments = f"--tls --cacert {access.authority} -h {access.host}"
    return Command(
        argv=("redis-cli", *arguments.split(" ")),
        shown=f"redis-cli {arguments} --user {USER} --askpass {statement}",
        stdin=f"AUTH {USER} {access.password}\n{statement}\n",
        skipped_lines=1,
    )


def _is_postmaster(argv: list[str]) -> bool:
    # Its children show a title ("postgres: checkpointer"), not their arguments.
    return argv[0].endswith("/postgres") and "-D" in argv


_TABLE = (
    "CREATE TABLE orders (id int, item text); INSERT INTO orders VALUES (1, 'tea'), (2, 'cups')"
)
_WITH_DATABASE = ("--databases", DATABASE)

# In the order of the play; the engine of the first one is killed.
ENGINES = (
    Engine(
        datastore="postgresql",
        title="PostgreSQL",
        create=_WITH_DATABASE,
        write=_TABLE,
        read="SELECT * FROM orders",
        command=_psql,
        is_server=_is_postmaster,
    ),
    Engine(
        datastore="mariadb",
        title="MariaDB",
        create=_WITH_DATABASE,
        write=_TABLE,
        read="SELECT * FROM orders",
        command=_mariadb,
        is_server=lambda argv: argv[0].endswith("/mariadbd"),
    ),
    Engine(
        datastore="redis",
        title="Redis",
        create=(),
        write="RPUSH orders tea cups",
        read="LRANGE orders 0 -1",
        command=_redis,
        is_server=lambda argv: "redis-server" in argv[0],  # its title has the address too
    ),
)
