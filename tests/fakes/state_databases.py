"""Fixtures: an empty state database of each kind, on servers that last as long as the run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.database_servers import KINDS, DatabaseServer, database_server

SQLITE = "sqlite"

ServerOf = Callable[[str], DatabaseServer]


@pytest.fixture(scope="session")
def database_servers() -> Iterator[ServerOf]:
    """A running server of a kind, started when the first test asks for it."""
    running: dict[str, DatabaseServer] = {}
    with contextlib.ExitStack() as stack:

        def server_of(kind: str) -> DatabaseServer:
            if kind not in running:
                running[kind] = stack.enter_context(database_server(kind))
            return running[kind]

        yield server_of


@pytest.fixture(params=[SQLITE, *KINDS])
def database_url(
    request: pytest.FixtureRequest, tmp_path: Path, database_servers: ServerOf
) -> str:
    """An empty database of each kind."""
    kind: str = request.param
    if kind == SQLITE:
        return f"sqlite:///{tmp_path}/state.db"
    return database_servers(kind).new_database()
