"""The one statement the supported databases spell differently: insert, or do something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Session

from conductor.models import Base

Rows = Sequence[Mapping[str, Any]]
# Says when a new row replaces the present one, given the columns of both.
IsNewer = Callable[[Any, Any], sa.ColumnElement[bool]]


def dialect_name(session: Session) -> str:
    return session.get_bind().dialect.name


def insert_if_absent(session: Session, model: type[Base], row: Mapping[str, Any]) -> bool:
    """Insert a row unless its key is taken; True if it was inserted."""
    name = dialect_name(session)
    table = model.__table__
    assert isinstance(table, sa.Table)  # noqa: S101  no model here maps anything else
    statement: sa.Insert
    if name == "postgresql":
        statement = postgresql.insert(table).on_conflict_do_nothing()
    elif name == "sqlite":
        statement = sqlite.insert(table).on_conflict_do_nothing()
    else:
        statement = sa.insert(table).prefix_with("IGNORE")
    return changed_rows(session, statement.values(**row)) == 1


def changed_rows(session: Session, statement: sa.Update | sa.Delete | sa.Insert) -> int:
    """Carry a statement out; how many rows it changed.

    By the database alone: objects of the session that it concerns keep what they had.
    """
    result = session.execute(
        statement,
        execution_options={"preserve_rowcount": True, "synchronize_session": False},
    )
    # Only a cursor's result has it, and a session's type says less than it returns.
    return int(result.rowcount)  # type: ignore[attr-defined]


def upsert(
    dialect: str,
    model: type[Base],
    rows: Rows,
    *,
    key: Sequence[str],
    is_newer: IsNewer,
    decides: Sequence[str] = (),
) -> sa.Insert:
    """One multi-row statement that inserts rows, or replaces those the new ones are newer than.

    `decides` are the columns `is_newer` reads, the most significant last. All rows have the same
    columns.
    """
    columns = [name for name in rows[0] if name not in key]
    table = model.__table__
    assert isinstance(table, sa.Table)  # noqa: S101  no model here maps anything else
    if dialect in ("postgresql", "sqlite"):
        insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
        return insert.values(list(rows)).on_conflict_do_update(
            index_elements=list(key),
            set_={name: insert.excluded[name] for name in columns},
            where=is_newer(insert.excluded, table.c),
        )
    replacing = mysql.insert(table).values(list(rows))
    newer = is_newer(replacing.inserted, table.c)
    # No WHERE here, and columns are assigned in this order: what decides is assigned last.
    ordered = sorted(columns, key=lambda name: decides.index(name) if name in decides else -1)
    return replacing.on_duplicate_key_update(
        [(name, sa.func.if_(newer, replacing.inserted[name], table.c[name])) for name in ordered]
    )
