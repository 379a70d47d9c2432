"""The database of the flow log: opened here, on SQLite or PostgreSQL, its absence named here."""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import exc as database_errors

from taskmanager.config import DEFAULT_LEASE, FLOW_BACKENDS
from taskmanager.leases import LeaseLiveness, connection_arguments
from taskmanager.liveness import FileLiveness, Liveness, refuse_network_disk
from trove_grpc import databases
from trove_grpc.errors import UnavailableError

_SQLITE = "sqlite:///"
_SQLITE_WAIT_SECONDS = 30.0  # for another executor's write


class FlowDatabase:
    """Where one executor's flow log is, and how it is reached."""

    def __init__(
        self, url: str, *, password_file: Path | None = None, lease: dt.timedelta = DEFAULT_LEASE
    ) -> None:
        """`password_file` and `lease` are for PostgreSQL."""
        backend = databases.check(
            "flow_database_url", url, backends=FLOW_BACKENDS, password_file=password_file
        )
        self.url = url
        self._path = Path(url.removeprefix(_SQLITE)) if backend == databases.SQLITE else None
        self._password_file = password_file
        self._lease = lease

    def liveness(self, executor_id: str) -> Liveness:
        """Who else works on this log: by file locks beside SQLite, by leases in PostgreSQL."""
        if self._path is None:
            return LeaseLiveness(
                self.url, executor_id, lease=self._lease, password_file=self._password_file
            )
        return FileLiveness(self._path.with_name(f"{self._path.name}.executors"), executor_id)

    def make_directory(self) -> None:
        """Make SQLite's private directory; refuses one on a network disk."""
        if self._path is not None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            refuse_network_disk(self._path.parent)

    def prepare(self) -> None:
        """Make SQLite's file private and WAL: both last, so once is enough."""
        if self._path is None:
            return
        # WAL makes steps six times faster, and readers never block.
        with contextlib.closing(
            sqlite3.connect(self._path, timeout=_SQLITE_WAIT_SECONDS)
        ) as connection:
            databases.enter_wal(connection, _SQLITE_WAIT_SECONDS)
        self._path.chmod(0o600)

    def engine_arguments(self) -> dict[str, Any]:
        """What DBOS makes its SQLAlchemy engine with."""
        arguments: dict[str, Any] = {"hide_parameters": True}
        if self._path is None:
            arguments["creator"] = self._connect
        return arguments

    def _connect(self) -> psycopg.Connection[Any]:
        """A connection for DBOS: its password read now, and in no URL that DBOS would log."""
        try:
            return psycopg.connect(**connection_arguments(self.url, self._password_file))
        except (psycopg.Error, UnavailableError) as error:
            # DBOS repeats what says just this, and gives a flow up on everything else.
            raise psycopg.OperationalError(f"connection failed: {error}") from error


@contextlib.contextmanager
def database_may_be_away() -> Iterator[None]:
    """Steps wait for a lost database by themselves; questions about flows fail, as ours do."""
    try:
        yield
    except (
        database_errors.OperationalError,
        database_errors.InterfaceError,
        database_errors.TimeoutError,
    ) as error:
        raise UnavailableError(
            "the flow log's database does not answer", reason="DATABASE_UNAVAILABLE"
        ) from error
