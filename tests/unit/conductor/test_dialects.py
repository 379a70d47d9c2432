"""What MariaDB and MySQL would be told; SQLite and PostgreSQL are asked for real."""

from __future__ import annotations

import re

from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateTable

from conductor.models import Base, GuestPresence
from conductor.presence import Presence
from conductor.store import guests
from conductor.store.dialects import upsert


def test_upsert_assigns_what_decides_last_where_there_is_no_where() -> None:
    statement = upsert(
        "mysql",
        GuestPresence,
        [Presence(session_epoch=1, sequence=2).row("i")],
        key=["instance_id"],
        is_newer=guests.is_newer,
        decides=["sequence", "session_epoch"],
    )
    text = str(statement.compile(dialect=mysql.dialect(is_mariadb=True)))
    assigned = re.findall(r"(\w+) = if\(", text.partition("ON DUPLICATE KEY UPDATE")[2])
    assert assigned[-2:] == ["sequence", "session_epoch"]
    assert len(assigned) == len(Presence.__slots__)


def test_every_table_can_be_told_to_mariadb() -> None:
    for table in Base.metadata.sorted_tables:
        text = str(CreateTable(table).compile(dialect=mysql.dialect(is_mariadb=True)))
        assert "DATETIME," not in text  # moments keep their microseconds
