"""Settings of state databases: which URLs are understood, where the password comes from.

A URL stands in a settings file, in a log, in an error's text; so it never holds the password.
That lies in a file of its own, read again for every connection: a changed one needs no restart.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trove_grpc.errors import InvalidRequestError, UnavailableError

SQLITE = "sqlite"
POSTGRESQL = "postgresql"
MARIADB = "mariadb"

_SCHEMES = {
    SQLITE: "sqlite:///<absolute path>",
    POSTGRESQL: "postgresql+psycopg://<user>@<host>/<database>",
    MARIADB: "mariadb+pymysql://<user>@<host>/<database>",
}
_BACKENDS = {form.partition(":")[0]: backend for backend, form in _SCHEMES.items()}
# PostgreSQL's locks are known by number (an arbitrary one of our own) in each database, MariaDB's
# by name in the whole server.
_LOCK_NUMBER = 7_201_611
_LOCK_NAME = "CONCAT('trove-', SHA1(DATABASE()))"
_LOCKS = {
    POSTGRESQL: (
        f"SELECT pg_advisory_lock({_LOCK_NUMBER}) IS NOT NULL",
        f"SELECT pg_advisory_unlock({_LOCK_NUMBER})",
    ),
    MARIADB: (f"SELECT GET_LOCK({_LOCK_NAME}, 60)", f"DO RELEASE_LOCK({_LOCK_NAME})"),
}
_COLLATION = "utf8mb4_nopad_bin"
# PostgreSQL: serialization_failure, deadlock_detected. MariaDB: lock wait timeout, deadlock, and
# a record that was changed since it was read.
_REPEATED_SQLSTATES = frozenset({"40001", "40P01"})
_REPEATED_CODES = frozenset({1205, 1213, 1020})
_WAL_PAUSE = 0.02
_OTHERS_BITS = stat.S_IRWXG | stat.S_IRWXO

# A server that vanished without a word must not hold a thread for TCP's two hours. Seconds, but
# for tcp_user_timeout (milliseconds).
_CONNECT_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    POSTGRESQL: {
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    },
    # utf8mb4 is every Unicode character; MariaDB's "utf8" is not.
    MARIADB: {
        "connect_timeout": 5,
        "read_timeout": 30,
        "write_timeout": 30,
        "charset": "utf8mb4",
    },
}


def check(
    setting: str,
    url: str,
    *,
    backends: Collection[str] = (SQLITE, POSTGRESQL, MARIADB),
    password_file: Path | None = None,
) -> str:
    """The backend of a URL; raises InvalidRequestError that names the setting, never the URL."""
    parts = urlsplit(url)
    backend = _BACKENDS.get(parts.scheme, "")
    if backend not in backends:
        forms = ", ".join(_SCHEMES[name] for name in backends)
        raise InvalidRequestError(f"{setting}: {parts.scheme!r} is not supported; use {forms}")
    if parts.password is not None or "password=" in parts.query:
        raise InvalidRequestError(
            f"{setting} holds a password, which settings and logs would show; put it into a file "
            f"of mode 0600 and name that in {setting.removesuffix('url')}password_file"
        )
    if backend == SQLITE and password_file is not None:
        raise InvalidRequestError(f"{setting} is SQLite's, which knows no password")
    return backend


def connect_arguments(backend: str) -> dict[str, Any]:
    """What a driver is told beside the URL."""
    return dict(_CONNECT_ARGUMENTS.get(backend, {}))


def read_password(path: Path) -> str:
    """The first line of a private file; raises UnavailableError for any other.

    That is what a caller meets when the file vanishes while we run.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_mode & _OTHERS_BITS:
                raise _unusable(path, "must be a plain file of mode 0600")
            password = file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise _unusable(path, f"cannot be read: {reason}") from error
    if not password:
        raise _unusable(path, "is empty")
    return password


def _unusable(path: Path, why: str) -> UnavailableError:
    return UnavailableError(
        f"the database's password file {path} {why}", reason="DATABASE_UNAVAILABLE"
    )


def is_deadlock(error: object) -> bool:
    """Whether a driver's error means that the same transaction may well succeed now."""
    if getattr(error, "sqlstate", None) in _REPEATED_SQLSTATES:
        return True
    arguments: list[object] = list(getattr(error, "args", ()))
    return bool(arguments) and arguments[0] in _REPEATED_CODES


def enter_wal(connection: sqlite3.Connection, patience: float) -> None:
    """Turn SQLite's database to write-ahead logging, which it remembers from then on.

    Of several that open a new one at once, SQLite refuses all but one whatever their busy timeout:
    to wait with a read lock in hand would be a deadlock. So it is asked again, up to `patience`
    seconds. Raises sqlite3.OperationalError after that, and at once for what does not pass.
    """
    ends = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                raise
        else:
            return
        time.sleep(_WAL_PAUSE)


@contextlib.contextmanager
def migrating(connection: Any) -> Iterator[None]:
    """One transaction on a new SQLAlchemy connection, under the lock of its schema.

    Of several processes that start at once one migrates. The lock outlives the transaction:
    whoever gets it next must see what was committed. SQLite needs none: its transactions begin
    IMMEDIATE.
    """
    take, give = _LOCKS.get(connection.dialect.name, ("", ""))
    if take:
        if not connection.exec_driver_sql(take).scalar():
            raise UnavailableError("another process migrates the database", retry_after=5)
        connection.commit()
    try:
        if connection.dialect.name == MARIADB:
            _compare_exactly(connection)
            connection.commit()
        with connection.begin():
            yield
    except BaseException:
        connection.invalidate()  # closed, and with it goes the lock
        raise
    if give:
        connection.exec_driver_sql(give)
        connection.commit()


def _compare_exactly(connection: Any) -> None:
    """Let tables made from now on tell "a" from "A", "ä" and "a ", as the other databases do.

    Ids of requests, tenants and SPIFFE names are compared by the database.
    """
    if connection.exec_driver_sql("SELECT @@collation_database").scalar() != _COLLATION:
        connection.exec_driver_sql(f"ALTER DATABASE CHARACTER SET utf8mb4 COLLATE {_COLLATION}")
