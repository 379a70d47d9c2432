"""`--database-url` and `--database-password-file`: whose, and where they end up."""

from __future__ import annotations

from pathlib import Path

import pytest

from trove_grpc.errors import InvalidRequestError
from trovectl import state_databases

URL = "postgresql+psycopg://trove@/conductor?host=/run/postgresql"
OTHER = "postgresql+psycopg://trove@/flows?host=/run/postgresql"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.touch(mode=0o600)
    file.write_text("hunter2\n")
    return file


def test_url_without_a_process_is_the_conductor_s(password_file: Path) -> None:
    found = state_databases.parse([URL], [str(password_file)])
    assert set(found) == {"conductor"}
    assert found["conductor"].settings("conductor", Path("/p")) == {
        "database_url": URL,
        "database_password_file": Path("/p"),
    }


def test_password_is_in_no_setting_and_no_representation(password_file: Path) -> None:
    found = state_databases.parse([URL, f"taskmanager={OTHER}"], [f"taskmanager={password_file}"])
    assert found["taskmanager"].password == "hunter2"
    assert found["taskmanager"].settings("taskmanager", Path("/p")) == {
        "flow_database_url": OTHER,
        "flow_database_password_file": Path("/p"),
    }
    assert found["conductor"].settings("conductor", Path("/p")) == {"database_url": URL}
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    ("urls", "files", "words"),
    [
        ([], ["/p"], "no --database-url"),
        ([URL], ["issuer=/p"], "no --database-url"),
        ([URL, f"issuer={URL}"], [], "a database of its own"),
        (["taskmanager=mariadb+pymysql://t@/flows"], [], "not supported"),
        (["postgresql+psycopg://t:secret@/x"], [], "holds a password"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    urls: list[str], files: list[str], words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        state_databases.parse(urls, files)
