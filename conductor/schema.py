"""Brings the database to the schema this release needs, before anything is served."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import exc

from conductor.executor import Database
from trove_grpc.errors import UnavailableError

_MIGRATIONS = Path(__file__).parent / "migrations"
# An arbitrary number of our own: PostgreSQL's advisory locks are known by number.
_LOCK = 7_201_611


def upgrade(database: Database) -> None:
    """Run the migrations that are missing; of several conductors that start at once, one does.

    Raises UnavailableError when there is no database.
    """
    try:
        # SQLite's writing transactions begin IMMEDIATE, which is the lock.
        with database.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            command.upgrade(alembic_config(connection), "head")
    except exc.OperationalError as error:
        url = database.engine.url.render_as_string(hide_password=True)
        raise UnavailableError(
            f"cannot open the database {url}: {error.orig}", reason="DATABASE_UNAVAILABLE"
        ) from error


def alembic_config(connection: sa.Connection) -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config
