"""The database behind asyncio: synchronous SQLAlchemy in a bounded executor.

Measured (performance §4): asynchronous drivers cost up to ten times as much per row. SQLite gets
one writer thread, so that writers queue here in order instead of racing for its lock, and several
read-only readers beside it (WAL). When `queue` calls wait already, the next is refused at once
with OverloadedError: the caller can retry, while a growing queue would only make all of them late.

PostgreSQL and MariaDB both run at READ COMMITTED: MariaDB's own default would go on reading the
snapshot of the transaction's start after it waited for a lock.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from conductor import metrics
from trove_grpc import databases
from trove_grpc.errors import InvalidRequestError, OverloadedError, StaleError, UnavailableError

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_BUSY_TIMEOUT = dt.timedelta(seconds=10)
_ATTEMPTS = 5
# Apart, or two that met in a deadlock meet again. Seconds, times the attempt.
_LONGEST_PAUSE = 0.02


class Database:
    """Runs functions of a session in transactions, off the event loop."""

    def __init__(
        self, url: str, *, password_file: Path | None = None, threads: int = 4, queue: int = 512
    ) -> None:
        databases.check("database_url", url, password_file=password_file)
        self._url = make_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        if self.is_sqlite and not self._url.database:
            raise InvalidRequestError("database_url: SQLite needs a file, it is shared by threads")
        writers = 1 if self.is_sqlite else threads
        self._write_engine = (
            _sqlite_engine(self._url, writers, read_only=False)
            if self.is_sqlite
            else _server_engine(self._url, threads, password_file)
        )
        self._read_engine = (
            _sqlite_engine(self._url, threads, read_only=True)
            if self.is_sqlite
            else self._write_engine
        )
        self._writer = ThreadPoolExecutor(writers, thread_name_prefix="database-write")
        self._reader = ThreadPoolExecutor(threads, thread_name_prefix="database-read")
        self._queue = queue
        self._waiting = 0
        metrics.DATABASE_LIMIT.set(queue)
        metrics.DATABASE_WAITING.set_function(lambda: self._waiting)

    @property
    def engine(self) -> sa.Engine:
        """The writing engine, for migrations before the process serves."""
        return self._write_engine

    async def read(
        self, query: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `query(session, ...)` in a transaction that changes nothing."""
        return await self._submit(
            self._reader, lambda: _transact(self._read_engine, lambda s: query(s, *args, **kwargs))
        )

    async def write(
        self, query: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `query(session, ...)` in one transaction; commits, or raises and leaves nothing.

        A deadlock or serialisation failure runs it again, so it must have no effect outside of
        the session. A caller that is cancelled does not stop it: the outcome is then unknown.
        """
        return await self._submit(
            self._writer,
            lambda: _transact(self._write_engine, lambda s: query(s, *args, **kwargs)),
        )

    async def check(self) -> None:
        """Ask the database for nothing; raises UnavailableError when it does not answer."""
        await self.read(lambda session: session.execute(sa.text("SELECT 1")).one())

    async def _submit(self, executor: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self._waiting >= self._queue:
            raise OverloadedError(
                f"{self._queue} calls wait for the database already", retry_after=1
            )
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(executor, work)
        # Not in a `finally`: a cancelled caller leaves while its work still occupies a place.
        future.add_done_callback(self._release)
        return await asyncio.shield(future)

    def _release(self, future: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # seen, should the caller have left

    def close(self) -> None:
        """Let running calls end, then close every connection."""
        self._writer.shutdown()
        self._reader.shutdown()
        self._read_engine.dispose()
        self._write_engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _transact(engine: sa.Engine, work: Callable[[Session], T]) -> T:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                return work(session)
        except StaleDataError as error:
            raise StaleError("the record was changed by someone else meanwhile") from error
        except exc.DataError as error:
            raise InvalidRequestError("a value is too large or not storable text") from error
        except exc.DBAPIError as error:
            if databases.is_deadlock(error.orig) and attempt < _ATTEMPTS:
                time.sleep(random.uniform(0, attempt * _LONGEST_PAUSE))  # noqa: S311  no secret
                continue
            if not isinstance(error, (exc.OperationalError, exc.InterfaceError)):
                raise
            # The statement and its parameters stay in our log: they are no peer's business.
            log.warning("the database failed: %s", error.orig)
            raise UnavailableError(
                "the conductor's database does not answer", reason="DATABASE_UNAVAILABLE"
            ) from error
        except exc.TimeoutError as error:
            raise UnavailableError(
                "no free database connection", reason="DATABASE_UNAVAILABLE"
            ) from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def _server_engine(url: URL, threads: int, password_file: Path | None) -> sa.Engine:
    engine = sa.create_engine(
        url,
        pool_size=2 * threads,
        max_overflow=0,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
        connect_args=databases.connect_arguments(url.get_backend_name()),
        hide_parameters=True,
    )
    if password_file is not None:

        @event.listens_for(engine, "do_connect")
        def give_password(
            _dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]
        ) -> None:
            parameters["password"] = databases.read_password(password_file)

    return engine


def _sqlite_engine(url: URL, threads: int, *, read_only: bool) -> sa.Engine:
    engine = sa.create_engine(
        url,
        pool_size=threads,
        max_overflow=1,
        poolclass=sa.QueuePool,
        # Transactions begin where `begin` below says, not where sqlite3 guesses.
        connect_args={
            "timeout": _BUSY_TIMEOUT.total_seconds(),
            "isolation_level": None,
            "check_same_thread": False,
        },
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        databases.enter_wal(connection, _BUSY_TIMEOUT.total_seconds())
        connection.execute("PRAGMA synchronous=FULL")  # an acknowledged update survives power loss
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")  # sealed secrets leave no bytes behind
        if read_only:
            connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # IMMEDIATE: a deferred transaction that turns writer late cannot wait, it fails.
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
