"""Who was let in as root, in the database of record, on each kind of it."""

from __future__ import annotations

import asyncio
import datetime as dt

from conductor.executor import Database
from conductor.store import root_history
from tests.integration.conductor.test_store import create

NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)


async def test_of_enablings_at_once_one_is_the_first(database: Database) -> None:
    instance_id, _ = await create(database)

    def enable(number: int):
        return database.write(
            root_history.record_enabled,
            tenant_id="demo",
            instance_id=instance_id,
            user_id=f"user-{number}",
            now=NOW,
        )

    were_enabled = await asyncio.gather(*(enable(number) for number in range(4)))
    assert sorted(were_enabled) == [False, True, True, True]
    winner = f"user-{were_enabled.index(False)}"
    last = await database.read(root_history.last_enabling, instance_id=instance_id)
    assert last is not None
    assert (last.user_id, last.enable_time, last.disable_time) == (winner, NOW, None)
