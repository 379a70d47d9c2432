"""Brings the database to the schema this release needs, before anything is served."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import exc

from conductor.executor import Database
from trove_grpc import databases
from trove_grpc.errors import InvalidRequestError, UnavailableError

_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> None:
    """Run the migrations that are missing; of several conductors that start at once, one does.

    Raises UnavailableError when there is no database, InvalidRequestError when it is the
    issuer's: both count their schema's releases in one table.
    """
    try:
        with database.engine.connect() as connection, databases.migrating(connection):
            refuse_foreign_tables(connection)
            command.upgrade(alembic_config(connection), "head")
    except exc.OperationalError as error:
        url = database.engine.url.render_as_string(hide_password=True)
        raise UnavailableError(
            f"cannot open the database {url}: {error.orig}", reason="DATABASE_UNAVAILABLE"
        ) from error


def refuse_foreign_tables(connection: sa.Connection) -> None:
    present = set(sa.inspect(connection).get_table_names())
    if "alembic_version" in present and "instances" not in present:
        raise InvalidRequestError(
            f"the database {connection.engine.url.render_as_string(hide_password=True)} holds "
            "tables of something else; give the conductor a database of its own"
        )


def alembic_config(connection: sa.Connection) -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config
