"""The databases of record: every store test runs on SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conductor import schema
from conductor.config import Config
from conductor.executor import Database
from conductor.store import datastores
from tests.fakes.certificates import TestAuthority
from tests.fakes.state_databases import database_servers, database_url

__all__ = ["database_servers", "database_url"]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    with Database(database_url) as database:
        schema.upgrade(database)
        await database.write(datastores.write_datastores, settings().datastores)
        yield database


@pytest.fixture(scope="session")
def authority() -> TestAuthority:
    return TestAuthority()


def settings() -> Config:
    return Config(identity=Path("/i"), database_url="sqlite:////d", sealing_key_file=Path("/k"))
