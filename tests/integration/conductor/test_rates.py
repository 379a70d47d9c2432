"""Leased rates in the database of record: never more than the limit, whoever asks which conductor.

Time stands still here, so that a storm falls into one minute however long it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from pathlib import Path

import pytest

from conductor.config import Rates
from conductor.executor import Database
from conductor.rates import Ended
from conductor.store import rates
from gateway.rest.ports.rates import GrpcRates
from gateway.rest.rates import RateLimiter
from tests.fakes.certificates import TestAuthority
from tests.fakes.control_plane import running_conductor
from tests.fakes.database_servers import KINDS
from tests.fakes.state_databases import SQLITE, ServerOf
from trove_grpc.client import PeerChannel
from trove_grpc.errors import QuotaExceededError
from trove_grpc.identity import Role

NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
LIMIT = 200
REQUESTS = 200


async def lease(
    database: Database, lease_id: str, *ended: Ended, tenant: str = "demo", now: dt.datetime = NOW
) -> rates.Granted:
    return await database.write(
        rates.lease,
        tenant_id=tenant,
        rate="GET",
        lease_id=lease_id,
        ended=ended,
        limit=LIMIT,
        slice_size=10,
        lifetime=dt.timedelta(seconds=5),
        now=now,
    )


async def test_concurrent_leases_add_up_to_the_limit(database: Database) -> None:
    granted = await asyncio.gather(*(lease(database, f"l{number}") for number in range(40)))
    assert sum(item.amount for item in granted) == LIMIT
    assert (await lease(database, "more")).retry_after == pytest.approx(65)
    assert (await lease(database, "theirs", tenant="other")).amount == 10


async def test_window_is_kept_between_transactions_with_what_was_given_back(
    database: Database,
) -> None:
    await lease(database, "a")
    await lease(database, "b", Ended("a", 3), now=NOW + dt.timedelta(seconds=2))
    windows = await database.read(
        rates.read_windows, tenant_id="demo", now=NOW + dt.timedelta(seconds=2)
    )
    (kept,) = windows["GET"].leases
    assert (kept.id, kept.amount) == ("b", 10)
    assert dict(windows["GET"].spent) == {int(NOW.timestamp()) + 2: 3}


async def test_windows_nobody_asks_of_are_forgotten(database: Database) -> None:
    await lease(database, "a", tenant="old")
    await lease(database, "a", tenant="new", now=NOW + dt.timedelta(minutes=20))
    await database.write(rates.forget_windows, before=NOW + dt.timedelta(minutes=10))
    assert await database.read(rates.read_windows, tenant_id="old", now=NOW) == {}
    assert await database.read(rates.read_windows, tenant_id="new", now=NOW) != {}


@contextlib.asynccontextmanager
async def api_process(tmp_path: Path, authority: TestAuthority, name: str, addresses: list[str]):
    """What a REST API has of rates: a certificate, a channel to every conductor, a limiter."""
    identity = authority.identity_for_service(Role.API, tmp_path / name)
    async with PeerChannel(addresses, identity=identity, server_role=Role.CONDUCTOR) as channel:
        yield RateLimiter(GrpcRates(channel), clock=lambda: 0.0)


async def storm(limiter: RateLimiter, tenant: str, count: int) -> int:
    """How many of so many concurrent requests pass."""
    results = await asyncio.gather(
        *(limiter.admit(tenant, "GET") for _ in range(count)), return_exceptions=True
    )
    refused = [result for result in results if result is not None]
    assert all(isinstance(result, QuotaExceededError) for result in refused), refused
    return count - len(refused)


@pytest.mark.parametrize("kind", [SQLITE, *KINDS])
async def test_two_api_processes_and_two_conductors_let_through_what_is_allowed_and_no_more(
    kind: str, tmp_path: Path, authority: TestAuthority, database_servers: ServerOf
) -> None:
    """On SQLite one conductor, for it allows no second."""
    settings = {"rates": Rates(get=LIMIT), "now": lambda: NOW}
    folders = ["a"] if kind == SQLITE else ["a", "b"]
    if kind != SQLITE:
        settings |= {
            "database_url": database_servers(kind).new_database(),
            "sealing_key_file": tmp_path / "sealing.key",
        }
    async with contextlib.AsyncExitStack() as stack:
        addresses = []
        for folder in folders:
            (tmp_path / folder).mkdir()
            running = await stack.enter_async_context(
                running_conductor(tmp_path / folder, authority, **settings)
            )
            addresses.append(running.address)
        one, two = [
            await stack.enter_async_context(
                # Each prefers another conductor, so that both write.
                api_process(tmp_path, authority, name, order)
            )
            for name, order in (("api-1", addresses), ("api-2", addresses[::-1]))
        ]
        passed = await asyncio.gather(
            *(storm(limiter, "noisy", REQUESTS) for limiter in (one, two)),
            *(storm(limiter, "quiet", LIMIT // 2) for limiter in (one, two)),
        )
    assert passed[0] + passed[1] == LIMIT
    # The other tenant's requests all fit, whatever the first one does.
    assert passed[2] + passed[3] == LIMIT
