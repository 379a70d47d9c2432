"""Which executors of a flow log on PostgreSQL are alive, told by leases on the database's clock.

Every executor renews a row of its own. Only PostgreSQL compares times, so no clock of a machine
matters. Whoever has not renewed for two thirds of its lease starts no new step: by the time the
others take its flows over it has stopped by itself, however long it was suspended or cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg

from taskmanager.liveness import check_executor_id
from trove_grpc import databases
from trove_grpc.errors import ConflictError, TroveError, UnavailableError

log = logging.getLogger(__name__)

_RENEWALS_PER_LEASE = 5
_MISSED_RENEWALS = 2  # more than these many intervals between two: something was away
_FENCED_AFTER = 2 / 3  # of a lease
_WAIT_SECONDS = 0.25
# An arbitrary number of our own: PostgreSQL's advisory locks are known by number.
_TABLE_LOCK = 7_201_612

_CREATE = """
CREATE TABLE IF NOT EXISTS trove_executor_leases (
    executor_id text PRIMARY KEY, holder text NOT NULL, expire_time timestamptz NOT NULL)
"""
_TAKE = """
INSERT INTO trove_executor_leases AS lease (executor_id, holder, expire_time)
VALUES (%s, %s, clock_timestamp() + %s)
ON CONFLICT (executor_id) DO UPDATE
SET holder = excluded.holder, expire_time = excluded.expire_time
WHERE lease.expire_time < clock_timestamp() OR lease.holder = excluded.holder
RETURNING holder
"""
_RENEW = """
UPDATE trove_executor_leases AS lease SET expire_time = clock_timestamp() + %(lease)s
FROM (
    SELECT executor_id, expire_time < clock_timestamp() AS has_lapsed
    FROM trove_executor_leases WHERE executor_id = %(executor_id)s FOR UPDATE
) AS former
WHERE lease.executor_id = former.executor_id AND lease.holder = %(holder)s
RETURNING former.has_lapsed
"""
_GIVE_BACK = "DELETE FROM trove_executor_leases WHERE executor_id = %s AND holder = %s"
_EXPIRY = "SELECT holder, expire_time FROM trove_executor_leases WHERE executor_id = %s"
_IS_DEAD = """
SELECT expire_time < clock_timestamp() FROM trove_executor_leases WHERE executor_id = %s
"""


class LeaseLiveness:
    """This executor's lease, and a look at the others'."""

    def __init__(
        self,
        database_url: str,
        executor_id: str,
        *,
        lease: dt.timedelta,
        password_file: Path | None = None,
    ) -> None:
        check_executor_id(executor_id)
        self._url = database_url
        self._executor_id = executor_id
        self._lease = lease
        self._interval = lease.total_seconds() / _RENEWALS_PER_LEASE
        self._password_file = password_file
        self._holder = uuid.uuid4().hex  # of this process: a namesake is told from us
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._using = asyncio.Lock()
        self._renewed_at = 0.0
        self._renewed = asyncio.Event()  # set and replaced by every renewal
        self._takes_over_from = 0.0

    async def acquire(self) -> None:
        """Take this executor's lease; raises ConflictError while another process renews it.

        After a kill -9 that means waiting for the lease of the killed process to run out.
        """
        async with self._connect() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_TABLE_LOCK])
            await connection.execute(_CREATE)
        present: Sequence[Any] | None = None
        while True:
            asked_at = _now()
            if await self._ask(_TAKE, [self._executor_id, self._holder, self._lease]):
                break
            seen = await self._ask(_EXPIRY, [self._executor_id])
            if present is not None and seen is not None and seen != present:
                raise ConflictError(
                    f"another task manager runs as executor {self._executor_id!r} on this flow "
                    "log; stop it, or give this one another executor_id",
                    reason="EXECUTOR_TAKEN",
                )
            if present is None:
                log.info("waiting for the lease of an earlier executor %s", self._executor_id)
            present = seen
            await asyncio.sleep(_WAIT_SECONDS)
        self._note_renewal(asked_at)

    async def release(self) -> None:
        with contextlib.suppress(TroveError):  # it runs out by itself
            await self._ask(_GIVE_BACK, [self._executor_id, self._holder], has_result=False)
        await self._disconnect()

    async def keep(self, on_lapse: Callable[[], Awaitable[None]]) -> None:
        """Renew until cancelled. `on_lapse` runs before steps may start again after a lapse.

        Raises ConflictError when another process has taken this executor's name.
        """
        has_lapsed = False  # until somebody has looked into it
        while True:
            await asyncio.sleep(self._interval)
            asked_at = _now()
            try:
                row = await self._ask(
                    _RENEW,
                    {
                        "lease": self._lease,
                        "executor_id": self._executor_id,
                        "holder": self._holder,
                    },
                )
            except UnavailableError as error:
                log.warning("cannot renew the lease of this executor: %s", error.message)
                continue
            if row is None:
                raise ConflictError(
                    f"another task manager has taken over as executor {self._executor_id!r}",
                    reason="EXECUTOR_TAKEN",
                )
            has_lapsed = has_lapsed or row[0]
            if asked_at - self._renewed_at > _MISSED_RENEWALS * self._interval:
                # The others were cut off as well, perhaps: let them renew first.
                self._takes_over_from = asked_at + self._lease.total_seconds()
            if has_lapsed:
                log.warning("the lease of this executor had run out; looking who has its flows")
                try:
                    await on_lapse()
                except UnavailableError as error:
                    log.warning("cannot tell who has them: %s", error.message)
                    continue
                has_lapsed = False
            self._note_renewal(asked_at)

    async def wait_until_sure(self) -> None:
        """Return once nobody else can hold this executor for dead."""
        while not self._is_sure():
            await self._renewed.wait()

    async def check(self) -> None:
        """Raise UnavailableError when the flow log does not answer."""
        await self._ask("SELECT 1", [])

    @contextlib.asynccontextmanager
    async def holding_dead(self, executor_id: str) -> AsyncIterator[bool]:
        """Whether that executor is dead; while inside, it cannot come back."""
        row = await self._ask(_IS_DEAD, [executor_id])
        is_alive = row is not None and not row[0]
        # Who could not renew cannot tell whether the other one could.
        if is_alive or not self._is_sure() or _now() < self._takes_over_from:
            yield False
            return
        async with self._connect() as connection, connection.transaction():
            cursor = await connection.execute(f"{_IS_DEAD} FOR UPDATE", [executor_id])
            row = await cursor.fetchone()
            yield row is None or bool(row[0])

    def _is_sure(self) -> bool:
        return _now() - self._renewed_at <= _FENCED_AFTER * self._lease.total_seconds()

    def _note_renewal(self, asked_at: float) -> None:
        # When it was asked for, not when the answer came: the database's lease began no earlier.
        self._renewed_at = asked_at
        self._renewed.set()
        self._renewed = asyncio.Event()

    async def _ask(self, query: Any, values: Any, *, has_result: bool = True) -> Any:
        """One statement on the connection that is kept; its first row."""
        timeout = self._interval
        async with self._using:
            try:
                async with asyncio.timeout(timeout):
                    if self._connection is None or self._connection.closed:
                        self._connection = await self._open()
                    cursor = await self._connection.execute(query, values)
                    return await cursor.fetchone() if has_result else None
            except TimeoutError as error:
                await self._disconnect()
                raise _away(f"no answer within {timeout:g} s") from error
            except psycopg.Error as error:
                await self._disconnect()
                raise _away(error) from error

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        try:
            async with await self._open() as connection:
                yield connection
        except psycopg.Error as error:
            raise _away(error) from error

    async def _open(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            autocommit=True, **connection_arguments(self._url, self._password_file)
        )

    async def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()


def connection_arguments(database_url: str, password_file: Path | None) -> dict[str, Any]:
    """What psycopg connects with; raises UnavailableError when there is no password to read."""
    arguments = databases.connect_arguments(databases.POSTGRESQL)
    if password_file is not None:
        arguments["password"] = databases.read_password(password_file)
    # libpq reads the same URL under its own name.
    conninfo = database_url.replace("postgresql+psycopg://", "postgresql://", 1)
    return {"conninfo": conninfo, "application_name": "trove-taskmanager", **arguments}


def _now() -> float:
    # Goes on while the machine sleeps, as the database's clock does.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _away(cause: object) -> UnavailableError:
    return UnavailableError(
        f"the flow log's database does not answer: {cause}", reason="DATABASE_UNAVAILABLE"
    )
