"""Schemas of earlier releases become this release's, on each database, with their rows."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import conductor.models
import pki.models
from conductor import schema
from conductor.executor import Database
from conductor.store import instances, operations
from pki.store import Store, audit, subjects
from tests.fakes import schema_dumps
from tests.fakes.database_servers import KINDS
from tests.fakes.schema_dumps import INSTANCE, SCHEMAS, SQLITE
from tests.fakes.state_databases import ServerOf, database_servers
from trove_grpc.errors import InvalidRequestError

__all__ = ["database_servers"]

RELEASES = sorted(path.name for path in SCHEMAS.iterdir())


@pytest.fixture(params=[SQLITE, *KINDS])
def empty(request: pytest.FixtureRequest, tmp_path: Path, database_servers: ServerOf):
    """Kind, URL and server of an empty database."""
    kind = request.param
    if kind == SQLITE:
        return kind, f"sqlite:///{tmp_path}/state.db", None
    server = database_servers(kind)
    return kind, server.new_database(), server


def differences(engine: sa.Engine, metadata: sa.MetaData) -> list[object]:
    with engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))


def test_there_is_a_release_to_upgrade_from() -> None:
    assert RELEASES


@pytest.mark.parametrize("release", RELEASES)
async def test_conductor_s_tables_of_a_release_become_the_models_and_keep_their_rows(
    empty, release: str
) -> None:
    kind, url, server = empty
    sql = (SCHEMAS / release / f"conductor.{kind}.sql").read_text()
    schema_dumps.load(url, server, sql)
    with Database(url) as database:
        schema.upgrade(database)
        assert differences(database.engine, conductor.models.Base.metadata) == []
        (record,) = await database.read(
            instances.list_instances, tenant_id="demo", after="", limit=5
        )
        assert record.instance.name == "ünïcode"
        (operation,) = await database.read(operations.list_open, after=None, limit=5)
        secret = await database.read(operations.sealed_secrets, operation.operation.id)
        assert secret == b"sealed"


@pytest.mark.parametrize("release", RELEASES)
def test_issuer_s_tables_of_a_release_become_the_models_and_keep_their_rows(
    empty, release: str
) -> None:
    kind, url, server = empty
    sql = (SCHEMAS / release / f"issuer.{kind}.sql").read_text()
    schema_dumps.load(url, server, sql)
    with contextlib.closing(Store(url)) as store:
        store.migrate()
        assert differences(store.engine, pki.models.Base.metadata) == []
        subject = store.run_now(lambda s: subjects.find(s, INSTANCE))
        assert subject is not None
        assert subject.engine_ip_addresses == ["127.0.0.2"]
        assert store.run_now(audit.first_bad_sequence) is None


@pytest.mark.parametrize("owner", schema_dumps.OWNERS)
def test_two_processes_cannot_share_a_database(empty, owner: str) -> None:
    _, url, _ = empty
    schema_dumps.fill(owner, url)
    with pytest.raises(InvalidRequestError, match="a database of its own"):
        schema_dumps.fill("issuer" if owner == "conductor" else "conductor", url)
