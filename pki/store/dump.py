"""All tables as rows of plain values, the same on every engine."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from pki.models import Base, UtcDateTime
from pki.store import READ_ONLY, Store

Row = Mapping[str, Any]
_PAGE = 500


@contextlib.contextmanager
def snapshot(store: Store) -> Iterator[sa.Connection]:
    """One moment of the whole database; writers go on meanwhile."""
    options: dict[str, Any] = {READ_ONLY: True}
    if store.engine.dialect.name != "sqlite":
        options["isolation_level"] = "REPEATABLE READ"
    with (
        store.engine.connect().execution_options(**options) as connection,
        connection.begin() as transaction,
    ):
        yield connection
        transaction.rollback()


def rows(connection: sa.Connection) -> Iterator[tuple[str, Row]]:
    """Every row of every table, as (table, values), by primary key."""
    for table in Base.metadata.sorted_tables:
        query = sa.select(table).order_by(*table.primary_key.columns)
        result = connection.execution_options(yield_per=_PAGE).execute(query)
        with contextlib.closing(result) as found:
            for row in found.mappings():
                yield table.name, {name: _plain(value) for name, value in row.items()}


def insert(connection: sa.Connection, table_name: str, values: Row) -> None:
    """Put a row back. Raises KeyError for a table or column of a later release."""
    table = Base.metadata.tables[table_name]
    typed = {name: _typed(table.columns[name], value) for name, value in values.items()}
    connection.execute(table.insert().values(typed))


def continue_numbers(connection: sa.Connection) -> None:
    """Let numbers that PostgreSQL gives out go on behind those that were inserted."""
    if connection.dialect.name != "postgresql":
        return
    for table in Base.metadata.sorted_tables:
        column = table.autoincrement_column
        if column is not None:
            highest = connection.execute(sa.select(sa.func.max(column))).scalar_one()
            if highest is not None:
                connection.execute(
                    sa.select(
                        sa.func.setval(
                            sa.func.pg_get_serial_sequence(table.name, column.name), highest
                        )
                    )
                )


def is_empty(connection: sa.Connection) -> bool:
    return all(
        connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is None
        for table in Base.metadata.sorted_tables
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dt.datetime):
        return value.isoformat(timespec="microseconds")
    return value


def _typed(column: sa.Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, dict) and value.keys() == {"base64"}:
        return base64.b64decode(value["base64"])
    if isinstance(column.type, UtcDateTime):
        return dt.datetime.fromisoformat(value)
    return value
