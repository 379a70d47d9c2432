"""The issuer's database: opens it, migrates it, runs transactions off the event loop.

Synchronous SQLAlchemy in a bounded executor (design: architecture, "database of record"). SQLite
has one thread, since it has one writer; a server database has several.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import alembic.command
import alembic.config
import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.store import news
from trove_grpc import databases
from trove_grpc.errors import InvalidRequestError, OverloadedError, StaleError, UnavailableError

Result = TypeVar("Result")

_MIGRATIONS = Path(__file__).parent.parent / "migrations"
_SERVER_WORKERS = 4
# Calls that may wait for a thread; at 1 ms a transaction the last one waits half a second.
_MAX_WAITING = 512
_BUSY_TIMEOUT_MS = 10_000
_ATTEMPTS = 5
# Execution option of a connection that only reads.
READ_ONLY = "trove_read_only"
# Apart, or two that met in a deadlock meet again. Seconds, times the attempt.
_LONGEST_PAUSE = 0.02
# For transactions that are still running when the store is closed.
_CLOSE_SECONDS = 10.0


class Store:
    """Runs functions of a session, each in one transaction."""

    def __init__(
        self,
        database_url: str,
        *,
        password_file: Path | None = None,
        max_waiting: int = _MAX_WAITING,
    ) -> None:
        backend = databases.check("database_url", database_url, password_file=password_file)
        is_sqlite = backend == databases.SQLITE
        if is_sqlite:
            self.engine = sa.create_engine(database_url, pool_pre_ping=True, hide_parameters=True)
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        else:
            self.engine = _server_engine(database_url, backend, password_file)
        self._executor = ThreadPoolExecutor(
            1 if is_sqlite else _SERVER_WORKERS, thread_name_prefix="pki-store"
        )
        self._max_waiting = max_waiting
        self._waiting = 0
        self._running = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._subscribers: list[Callable[[], None]] = []

    def subscribe(self, heard: Callable[[], None]) -> None:
        """Call `heard` after each commit of marked news, on the transaction's own thread."""
        self._subscribers.append(heard)

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread or are in one."""
        return self._waiting

    @property
    def max_waiting(self) -> int:
        return self._max_waiting

    def migrate(self) -> None:
        """Bring the schema to this release's; does nothing when it is there."""
        config = alembic.config.Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        try:
            with self.engine.connect() as connection, databases.migrating(connection):
                self._refuse_foreign_tables(connection)
                config.attributes["connection"] = connection
                alembic.command.upgrade(config, "head")
        except sa.exc.OperationalError as error:
            raise self._away(error) from error

    def _refuse_foreign_tables(self, connection: sa.Connection) -> None:
        present = set(sa.inspect(connection).get_table_names())
        if "alembic_version" in present and "authorities" not in present:
            url = self.engine.url.render_as_string(hide_password=True)
            raise InvalidRequestError(
                f"the database {url} holds tables of something else; give the issuer a database "
                "of its own"
            )

    def run_now(self, function: Callable[[Session], Result]) -> Result:
        """Run `function` in one transaction on this thread.

        A deadlock runs it again: MariaDB finds some that the other databases do not have.
        Raises StaleError for a lost race, InvalidRequestError for a value that does not fit, and
        UnavailableError when the database is away or is not ours (DATABASE_UNSUITABLE).
        """
        with self._counted():
            return self._run_now(function)

    def _run_now(self, function: Callable[[Session], Result]) -> Result:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with Session(self.engine, expire_on_commit=False) as session:
                    with session.begin():
                        result = function(session)
                    is_news = news.is_marked(session)
            except sa.exc.IntegrityError as error:
                # Two transactions wrote the same key; the repeated one will find the other's row.
                raise StaleError("another call was faster; repeat this one") from error
            except sa.exc.OperationalError as error:
                if attempt < _ATTEMPTS and databases.is_deadlock(error.orig):
                    time.sleep(random.uniform(0, attempt * _LONGEST_PAUSE))  # noqa: S311  no secret
                    continue
                raise self._away(error) from error
            except sa.exc.DataError as error:
                # Its text may quote the value.
                raise InvalidRequestError(
                    "a value of this request does not fit into the issuer's database; "
                    "shorten it or leave out unusual characters"
                ) from error
            except (sa.exc.ProgrammingError, sa.exc.NotSupportedError) as error:
                raise self._unsuitable(error) from error
            except (sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
                raise self._away(error) from error
            if is_news:
                for heard in self._subscribers:
                    heard()
            return result
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def run(self, function: Callable[[Session], Result]) -> Result:
        """Run `function` in one transaction on a thread of ours.

        Raises OverloadedError when too many wait already. Cancelling the caller does not undo
        what has begun: callers may repeat, every RPC of the issuer allows for it.
        """
        if self._waiting >= self._max_waiting:
            raise OverloadedError(
                "the issuer's database has too many calls waiting; retry later", retry_after=1
            )
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, self.run_now, function)
        future.add_done_callback(self._forget)
        return await future

    async def check(self) -> None:
        """Ask the database for nothing; raises UnavailableError when it does not answer."""
        await self.run(lambda session: session.execute(sa.text("SELECT 1")).one())

    def close(self) -> None:
        """End every connection, also those of transactions that other threads still run.

        A connection that comes back to a pool that is gone would be closed by nobody.
        """
        self._executor.shutdown()
        with self._changed:
            self._is_closed = True
            self._changed.wait_for(lambda: not self._running, _CLOSE_SECONDS)
        self.engine.dispose()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()
                came_late = self._is_closed and not self._running
            if came_late:
                self.engine.dispose()

    def _forget(self, _done: object) -> None:
        self._waiting -= 1

    def _unsuitable(self, error: sa.exc.DBAPIError) -> UnavailableError:
        url = self.engine.url.render_as_string(hide_password=True)
        return UnavailableError(
            f"the issuer's database {url} refuses a statement: {error.orig}; its schema must be "
            "this release's, and its user must own the tables",
            reason="DATABASE_UNSUITABLE",
        )

    def _away(self, error: sa.exc.SQLAlchemyError) -> UnavailableError:
        url = self.engine.url.render_as_string(hide_password=True)
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else "no free connection"
        return UnavailableError(
            f"the issuer's database {url} does not answer: {cause}", reason="DATABASE_UNAVAILABLE"
        )


def _server_engine(url: str, backend: str, password_file: Path | None) -> sa.Engine:
    engine = sa.create_engine(
        url,
        pool_size=_SERVER_WORKERS + 1,  # and `run_now`
        max_overflow=0,
        pool_pre_ping=True,
        # MariaDB's default would go on reading the snapshot from before it waited for a lock.
        isolation_level="READ COMMITTED",
        connect_args=databases.connect_arguments(backend),
        hide_parameters=True,
    )
    if password_file is not None:

        @sa.event.listens_for(engine, "do_connect")
        def give_password(
            _dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]
        ) -> None:
            parameters["password"] = databases.read_password(password_file)

    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # We begin transactions ourselves: the driver would only do so before the first write.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    databases.enter_wal(connection, _BUSY_TIMEOUT_MS / 1000)
    # A token must not become usable again after a power cut.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later would fail with "database is locked"; one
    # that only reads keeps nobody from writing.
    is_reader = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if is_reader else "BEGIN IMMEDIATE")
