"""Settings of state databases: refused early, and never with a password in sight."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trove_grpc import databases
from trove_grpc.errors import InvalidRequestError, UnavailableError

SECRET = "hunter2-secret"


@pytest.mark.parametrize(
    ("url", "backend"),
    [
        ("sqlite:////var/lib/trove/x.db", "sqlite"),
        ("postgresql+psycopg://trove@db.example:5432/trove?sslmode=verify-full", "postgresql"),
        ("mariadb+pymysql://trove@/trove?unix_socket=/run/mysqld/mysqld.sock", "mariadb"),
    ],
)
def test_supported_urls_are_known_by_their_backend(url: str, backend: str) -> None:
    assert databases.check("database_url", url) == backend


@pytest.mark.parametrize(
    "url",
    ["mysql+pymysql://t@/t", "postgresql://t@/t", "postgresql+asyncpg://t@/t", "oracle://", "x"],
)
def test_other_urls_are_refused_with_the_forms_that_work(url: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"mariadb\+pymysql://"):
        databases.check("database_url", url)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://trove:{SECRET}@db/trove",
        f"mariadb+pymysql://trove:{SECRET}@db/trove",
        f"postgresql+psycopg://trove@db/trove?password={SECRET}",
    ],
)
def test_password_in_a_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        databases.check("flow_database_url", url)
    assert SECRET not in str(caught.value)
    assert "flow_database_password_file" in caught.value.message


def test_sqlite_takes_no_password(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="no password"):
        databases.check("database_url", "sqlite:////x", password_file=tmp_path / "p")


def test_password_is_the_first_line_of_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.touch(mode=0o600)
    file.write_text(f"{SECRET} ü \n")
    assert databases.read_password(file) == f"{SECRET} ü "


def test_password_files_others_may_read_or_replace_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    file.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(file)
    empty = tmp_path / "empty"
    empty.touch(mode=0o600)
    for path in (file, link, empty, tmp_path, tmp_path / "nothing"):
        with pytest.raises(UnavailableError) as caught:
            databases.read_password(path)
        assert str(path) in caught.value.message
        assert SECRET not in str(caught.value)


def test_deadlocks_are_told_from_other_errors() -> None:
    class DriverError(Exception):
        sqlstate = "40P01"

    assert databases.is_deadlock(DriverError())
    assert databases.is_deadlock(ValueError(1213, "Deadlock found"))
    assert not databases.is_deadlock(ValueError(2013, "Lost connection"))
    assert not databases.is_deadlock(ValueError())


def test_many_that_open_a_new_database_at_once_all_get_write_ahead_logging(tmp_path: Path) -> None:
    at_once = 8

    def open_one(path: Path, barrier: threading.Barrier) -> str:
        with contextlib.closing(sqlite3.connect(path, timeout=5)) as connection:
            barrier.wait()
            databases.enter_wal(connection, 5)
            return str(connection.execute("PRAGMA journal_mode").fetchone()[0])

    with ThreadPoolExecutor(at_once) as pool:
        for number in range(40):
            barrier = threading.Barrier(at_once)
            path = tmp_path / f"{number}.db"
            assert set(pool.map(open_one, [path] * at_once, [barrier] * at_once)) == {"wal"}


def test_database_that_stays_locked_is_said_after_the_patience(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as owner:
        owner.execute("BEGIN EXCLUSIVE")
        with (
            contextlib.closing(sqlite3.connect(path, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            databases.enter_wal(other, 0)
