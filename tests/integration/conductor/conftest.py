"""The databases of record: every store test runs on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from conductor import schema
from conductor.config import Config
from conductor.executor import Database
from conductor.store import datastores
from tests.fakes.certificates import TestAuthority


def _binaries() -> Path:
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: path.parts[-3]
    )
    assert versions, "these tests need PostgreSQL's server: apt-get install postgresql"
    return versions[-1].parent


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Socket directory of a private PostgreSQL, without a port."""
    # PostgreSQL refuses to run as root, so its files belong to the package's own user then.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="trove-pg-"))  # short: a socket's path has 107 bytes
    if user is not None:
        account = pwd.getpwnam(user)
        os.chown(folder, account.pw_uid, account.pw_gid)
    binaries, data = _binaries(), folder / "data"
    identity = {"user": user, "cwd": folder, "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}}
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"],
            check=True,
            capture_output=True,
            **identity,
        )
        subprocess.run(
            [
                binaries / "pg_ctl",
                "-D",
                data,
                "-w",
                "-l",
                folder / "log",
                "-o",
                f"-c listen_addresses='' -k {folder} -c fsync=off",
                "start",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            **identity,
        )
        yield str(folder)
    finally:
        subprocess.run(
            [binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"],
            check=False,
            capture_output=True,
            **identity,
        )
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/conductor.db"
    folder = request.getfixturevalue("postgresql")
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(host=folder, user="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"postgresql+psycopg://postgres@/{name}?host={folder}"


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
