"""Database sessions of tenants that never pause: one query after the other, each answer checked.

A session keeps its connection: a listener that reloads its certificate must not touch it. Beside
the sessions, newcomers connect with what tenants may hold: the old root alone, or both roots.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pymysql

from tests.acceptance.engine_clients import DATABASE, PASSWORD, USER

_SECONDS = 20


class Link(Protocol):
    """One connection to an engine."""

    def ask(self, number: int) -> tuple[int, str]:
        """`number` as the engine returns it, and who serves this connection there."""

    def close(self) -> None: ...


class PostgresLink:
    def __init__(self, host: str, root: Path) -> None:
        self._connection = psycopg.connect(
            host=host,
            dbname=DATABASE,
            user=USER,
            password=PASSWORD,
            sslmode="verify-full",
            sslrootcert=str(root),
            connect_timeout=_SECONDS,
            autocommit=True,
        )

    def ask(self, number: int) -> tuple[int, str]:
        row = self._connection.execute("SELECT %s::int, pg_backend_pid()", (number,)).fetchone()
        assert row is not None
        return row[0], str(row[1])

    def close(self) -> None:
        self._connection.close()


class MariadbLink:
    def __init__(self, host: str, root: Path) -> None:
        self._connection = pymysql.connect(
            host=host,
            database=DATABASE,
            user=USER,
            password=PASSWORD,
            ssl=ssl.create_default_context(cafile=str(root)),
            connect_timeout=_SECONDS,
            read_timeout=_SECONDS,
        )

    def ask(self, number: int) -> tuple[int, str]:
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT %s + 0, CONNECTION_ID()", (number,))
            row: Any = cursor.fetchone()
        return int(row[0]), str(row[1])

    def close(self) -> None:
        self._connection.close()


class RedisLink:
    """Three commands of RESP need no client library."""

    def __init__(self, host: str, root: Path) -> None:
        context = ssl.create_default_context(cafile=str(root))
        plain = socket.create_connection((host, 6379), timeout=_SECONDS)
        self._socket = context.wrap_socket(plain, server_hostname=host)
        self._file = self._socket.makefile("rb")
        assert self._command("AUTH", USER, PASSWORD) == "+OK"

    def ask(self, number: int) -> tuple[int, str]:
        answer = self._command("ECHO", str(number))
        return int(answer), self._command("CLIENT", "ID")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _command(self, *words: str) -> str:
        parts = [f"*{len(words)}\r\n", *(f"${len(each)}\r\n{each}\r\n" for each in words)]
        self._socket.sendall("".join(parts).encode())
        line = self._file.readline().decode().rstrip()
        assert line, "the server closed the connection"
        if line.startswith("$"):
            return self._file.read(int(line[1:]) + 2).decode().rstrip()
        assert not line.startswith("-"), line
        return line


LINKS = {"postgresql": PostgresLink, "mariadb": MariadbLink, "redis": RedisLink}


@dataclass(slots=True)
class Tally:
    """What one session saw."""

    engine: str
    queries: int = 0
    failures: list[str] = field(default_factory=list)
    backends: set[str] = field(default_factory=set)


class QueryLoop:
    """One tenant's session in a thread of its own, until told to stop."""

    def __init__(self, engine: str, host: str, root: Path, pause: float) -> None:
        self.tally = Tally(engine)
        self._target = (host, root)
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"query-{engine}", daemon=True)
        self._thread.start()

    def stop(self) -> Tally:
        self._stop.set()
        self._thread.join(_SECONDS * 2)
        assert not self._thread.is_alive(), "a query does not return"
        return self.tally

    def _run(self) -> None:
        try:
            with contextlib.closing(LINKS[self.tally.engine](*self._target)) as link:
                while not self._stop.wait(self._pause):
                    self._ask(link)
        except Exception as error:
            self.tally.failures.append(f"{type(error).__name__}: {error}")

    def _ask(self, link: Link) -> None:
        number = self.tally.queries + 1
        answer, backend = link.ask(number)
        if answer != number:
            self.tally.failures.append(f"asked for {number}, got {answer}")
        self.tally.backends.add(backend)
        self.tally.queries = number


class Newcomers:
    """Connects again and again, each time with every set of roots that a tenant may hold."""

    def __init__(self, hosts: dict[str, str], roots: dict[str, Path], pause: float) -> None:
        self.connections = 0
        self.failures: list[str] = []
        self._hosts, self._roots, self._pause = hosts, roots, pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="newcomers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(_SECONDS * 4)
        assert not self._thread.is_alive(), "a connection attempt does not return"

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            for engine, host in self._hosts.items():
                for name, root in self._roots.items():
                    self._connect(engine, host, name, root)

    def _connect(self, engine: str, host: str, name: str, root: Path) -> None:
        if not root.exists():  # both roots: once there are two
            return
        try:
            with contextlib.closing(LINKS[engine](host, root)) as link:
                link.ask(1)
        except Exception as error:
            self.failures.append(f"{engine} with {name}: {type(error).__name__}: {error}")
        self.connections += 1


@contextlib.contextmanager
def sessions(
    hosts: dict[str, str], root: Path, *, each: int, pause: float
) -> Iterator[list[QueryLoop]]:
    """`each` sessions of every engine; all are ended, whatever happens."""
    loops = [
        QueryLoop(engine, host, root, pause) for engine, host in hosts.items() for _ in range(each)
    ]
    try:
        yield loops
    finally:
        for loop in loops:
            loop.stop()
