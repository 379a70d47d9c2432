"""Leases on a real PostgreSQL: who is alive, who may start a step, who takes over."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt

import psycopg
import pytest

from taskmanager.leases import LeaseLiveness
from tests.fakes.database_servers import database_server
from trove_grpc.errors import ConflictError, UnavailableError

LEASE = dt.timedelta(seconds=2)


async def nothing() -> None:
    """No flow runs here."""


@pytest.fixture
def url(database_servers):
    return database_servers("postgresql").new_database()


@contextlib.asynccontextmanager
async def kept(lease: LeaseLiveness, on_lapse=nothing):
    keeper = asyncio.create_task(lease.keep(on_lapse))
    try:
        yield keeper
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def dead(lease: LeaseLiveness, executor_id: str) -> bool:
    async with lease.holding_dead(executor_id) as is_dead:
        return is_dead


async def until(condition, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  the database's clock decides
            await asyncio.sleep(0.05)


async def expire(url: str, executor_id: str) -> None:
    """What time does to a lease, at once."""
    async with await psycopg.AsyncConnection.connect(
        url.replace("+psycopg", ""), autocommit=True
    ) as connection:
        await connection.execute(
            "UPDATE trove_executor_leases SET expire_time = clock_timestamp() - interval '1 s' "
            "WHERE executor_id = %s",
            [executor_id],
        )


async def test_executors_that_start_at_once_on_an_empty_database_all_get_their_leases(url):
    leases = [LeaseLiveness(url, f"e{number}", lease=LEASE) for number in range(5)]
    await asyncio.gather(*(lease.acquire() for lease in leases))
    assert not await dead(leases[0], "e4")
    await asyncio.gather(*(lease.release() for lease in leases))


async def test_executor_is_alive_while_it_renews_and_dead_once_it_stopped(url):
    one, two = (LeaseLiveness(url, name, lease=LEASE) for name in ("one", "two"))
    await one.acquire()
    await two.acquire()
    async with kept(two):
        async with kept(one):
            await asyncio.sleep(2 * LEASE.total_seconds())
            assert not await dead(two, "one")
        await until(lambda: dead(two, "one"))
    await two.release()
    await one.release()


async def test_executor_that_left_is_dead_at_once_and_its_name_is_free(url):
    one, two = (LeaseLiveness(url, name, lease=LEASE) for name in ("one", "two"))
    await one.acquire()
    await two.acquire()
    await one.release()
    assert await dead(two, "one")
    again = LeaseLiveness(url, "one", lease=LEASE)
    async with asyncio.timeout(1):
        await again.acquire()
    await again.release()
    await two.release()


async def test_name_of_a_killed_executor_is_free_once_its_lease_has_run_out(url):
    killed = LeaseLiveness(url, "one", lease=LEASE)
    await killed.acquire()
    await killed._disconnect()
    again = LeaseLiveness(url, "one", lease=LEASE)
    async with asyncio.timeout(10):
        await again.acquire()
    await again.release()


async def test_name_of_a_living_executor_is_refused(url):
    one = LeaseLiveness(url, "one", lease=LEASE)
    await one.acquire()
    async with kept(one):
        namesake = LeaseLiveness(url, "one", lease=LEASE)
        with pytest.raises(ConflictError, match="another task manager runs as executor 'one'"):
            await namesake.acquire()
        await namesake.release()
    await one.release()


async def test_executor_whose_name_was_taken_stops(url):
    one, namesake = (LeaseLiveness(url, "one", lease=LEASE) for _ in range(2))
    await one.acquire()
    await expire(url, "one")
    await namesake.acquire()
    async with kept(one) as keeper:
        with pytest.raises(ConflictError, match="taken over"):
            await keeper
    await namesake.release()
    await one.release()


async def test_no_step_starts_after_two_thirds_of_a_lease_without_renewal(url):
    one = LeaseLiveness(url, "one", lease=LEASE)
    await one.acquire()
    await one.wait_until_sure()
    await asyncio.sleep(LEASE.total_seconds() * 0.75)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(one.wait_until_sure(), 0.1)
    async with kept(one), asyncio.timeout(5):
        await one.wait_until_sure()
    await one.release()


async def test_lapse_is_looked_into_before_steps_may_start_again(url):
    one = LeaseLiveness(url, "one", lease=LEASE)
    await one.acquire()
    await asyncio.sleep(LEASE.total_seconds() * 1.1)
    seen: list[bool] = []

    async def look() -> None:
        seen.append(one._is_sure())

    async with kept(one, look), asyncio.timeout(5):
        await one.wait_until_sure()
    assert seen == [False]
    await one.release()


async def test_after_an_outage_nobody_takes_over_from_who_is_about_to_renew():
    with database_server("postgresql") as server:
        url = server.new_database()
        one, two = (LeaseLiveness(url, name, lease=LEASE) for name in ("one", "two"))
        await one.acquire()
        await two.acquire()
        async with kept(one), kept(two):
            server.stop()
            with pytest.raises(UnavailableError):
                await one.check()
            await asyncio.sleep(LEASE.total_seconds() * 1.5)
            server.start()
            verdicts: list[bool] = []

            async def both_renewed() -> bool:
                for lease, other in ((one, "two"), (two, "one")):
                    with contextlib.suppress(UnavailableError):
                        verdicts.append(await dead(lease, other))
                return one._is_sure() and two._is_sure()

            await until(both_renewed)
        assert verdicts
        assert not any(verdicts)
        await one.release()
        await two.release()
