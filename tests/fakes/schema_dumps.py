"""Dumps of the schemas of releases, with a few rows, for each kind of database.

`python -m tests.fakes.schema_dumps NAME` writes those of the working tree to
tests/schemas/NAME/. Do it when a release is made: the next one must upgrade from them.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from conductor import schema
from conductor.config import Config as ConductorConfig
from conductor.executor import Database
from conductor.store import datastores
from pki.issuer import bootstrap, inventory
from pki.issuer.config import Config as IssuerConfig
from pki.store import Store
from tests.fakes.custody import MemoryCustody
from tests.fakes.database_servers import KINDS, DatabaseServer, database_server
from tests.fakes.records import create

SCHEMAS = Path(__file__).parent.parent / "schemas"
SQLITE = "sqlite"
OWNERS = ("conductor", "issuer")
INSTANCE = "5f1f1d3e-0f3a-4a3e-9b53-0d9a4b6d2a11"
_NAME_IN_URL = re.compile(r"@/(\w+)\?")


def dump(url: str, server: DatabaseServer | None) -> str:
    """SQL that makes this database anew."""
    if server is None:
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            return "\n".join(connection.iterdump()) + "\n"
    name = _name(url)
    if url.startswith("postgresql"):
        text = server.run(
            *("pg_dump", "--no-owner", "--no-privileges", "--inserts"),
            *("--username=trove", f"--host={server.root}", name),
        )
        # Comments name versions; \restrict holds a random word.
        lines = [line for line in text.splitlines() if not line.startswith(("--", "\\"))]
    else:
        text = server.run(
            *("mariadb-dump", "--no-defaults", "--skip-comments", "--skip-extended-insert"),
            *(f"--socket={server.root / 'socket'}", "--user=root", "--hex-blob", name),
        )
        lines = [line for line in text.splitlines() if not line.startswith("/*M!")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def load(url: str, server: DatabaseServer | None, sql: str) -> None:
    """Run a dump on an empty database."""
    if server is None:
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(sql)
    elif url.startswith("postgresql"):
        server.run(
            *("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "trove"),
            *("-h", str(server.root), _name(url)),
            text=sql,
        )
    else:
        server.run(
            *("mariadb", "--no-defaults", "--user=root"),
            *(f"--socket={server.root / 'socket'}", _name(url)),
            text=sql,
        )


def fill(owner: str, url: str) -> None:
    """Migrate an empty database and write what an installation writes first."""
    if owner == "conductor":
        asyncio.run(_fill_conductor(url))
    else:
        _fill_issuer(url)


async def _fill_conductor(url: str) -> None:
    path = Path("/nowhere")
    settings = ConductorConfig(identity=path, database_url=url, sealing_key_file=path)
    with Database(url) as database:
        schema.upgrade(database)
        await database.write(datastores.write_datastores, settings.datastores)
        await create(database, request_id="first", name="ünïcode")


def _fill_issuer(url: str) -> None:
    path = Path("/nowhere")
    config = IssuerConfig(
        identity=path,
        operator_socket=path,
        database_url=url,
        custody_directory=path,
        passphrase_file=path,
    )
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    store = Store(url)
    with contextlib.closing(store):
        store.migrate()
        store.run_now(lambda s: bootstrap.initialise(s, MemoryCustody(), config, now))
        store.run_now(
            lambda s: inventory.register_subject(
                s,
                instance_id=INSTANCE,
                tenant_id="demo",
                dns_names=[f"{INSTANCE}.db.local.trove"],
                ip_addresses=["127.0.0.2"],
                actor="dump",
                now=now,
            )
        )
        store.run_now(
            lambda s: inventory.mint_token(s, config, INSTANCE, None, actor="dump", now=now)
        )


@contextlib.contextmanager
def _servers() -> Iterator[dict[str, DatabaseServer | None]]:
    with contextlib.ExitStack() as stack:
        yield {SQLITE: None} | {kind: stack.enter_context(database_server(kind)) for kind in KINDS}


def main(release: str) -> None:
    folder = SCHEMAS / release
    folder.mkdir(parents=True)
    with _servers() as servers, tempfile.TemporaryDirectory() as temporary:
        for kind, server in servers.items():
            for owner in OWNERS:
                url = (
                    f"sqlite:///{temporary}/{owner}.db"
                    if server is None
                    else server.new_database()
                )
                fill(owner, url)
                (folder / f"{owner}.{kind}.sql").write_text(dump(url, server))


def _name(url: str) -> str:
    found = _NAME_IN_URL.search(url)
    assert found is not None, url
    return found[1]


if __name__ == "__main__":
    main(sys.argv[1])
