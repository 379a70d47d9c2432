"""Database certificates and their authorities are replaced under clients that notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from gateway.rest.passwords import mysql_native_password_verifier
from tests.fakes.guest_gateway import FakeGateway, eventually
from tests.fakes.scram import verifier as scram_verifier
from tests.integration.guestagent.conftest import PASSWORD, Machine
from trove_grpc.gen.common.v1 import engine_pb2, trust_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb

SESSIONS = 4
ROOT_KIND = trust_pb2.AUTHORITY_KIND_DATABASE_ROOT
INTERMEDIATE_KIND = trust_pb2.AUTHORITY_KIND_DATABASE


class Redis:
    """A client's connection, spoken by hand: TLS from the first byte."""

    def __init__(self, address: str, authority: Path) -> None:
        context = ssl.create_default_context(cafile=authority)
        plain = socket.create_connection((address, 6379), timeout=20)
        self._connection = context.wrap_socket(plain, server_hostname=address)
        assert self.ask(f"AUTH ann {PASSWORD.replace(' ', '-')}") == "+OK"

    def ask(self, command: str) -> str:
        self._connection.sendall(f"{command}\r\n".encode())
        return self._connection.recv(4096).decode().split("\r\n")[0]

    def close(self) -> None:
        self._connection.close()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One engine as its clients see it."""

    manager: str
    version: str
    port: int
    verifier: str
    has_databases: bool
    # Opens a fully verified connection; then which server process or session answers on it.
    connect: Callable[[str, Path], Any]
    ask: Callable[[Any], object]
    # What has to be said in clear before TLS begins.
    greet: Callable[[socket.socket], None]


def _postgresql(address: str, authority: Path) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=address,
        user="ann",
        dbname="shop",
        password=PASSWORD,
        sslmode="verify-full",
        sslrootcert=str(authority),
        autocommit=True,
    )


def _mariadb(address: str, authority: Path) -> pymysql.Connection[Any]:
    return pymysql.connect(
        host=address,
        user="ann",
        database="shop",
        password=PASSWORD,
        ssl_ca=str(authority),
        ssl_verify_cert=True,
        ssl_verify_identity=True,
    )


def _mariadb_ask(connection: pymysql.Connection[Any]) -> object:
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        return cursor.fetchone()


def _greet_postgresql(plain: socket.socket) -> None:
    plain.sendall(struct.pack("!II", 8, 80877103))  # SSLRequest
    assert plain.recv(1) == b"S"


def _greet_mariadb(plain: socket.socket) -> None:
    plain.recv(4096)
    capabilities = 0x00000200 | 0x00000800 | 0x00008000  # protocol 4.1, SSL, secure connection
    body = struct.pack("<IIB23x", capabilities, 1 << 24, 45)
    plain.sendall(struct.pack("<I", len(body))[:3] + b"\1" + body)


KINDS = [
    Kind(
        manager="postgresql",
        version="15",
        port=5432,
        verifier=scram_verifier(PASSWORD),
        has_databases=True,
        connect=_postgresql,
        ask=lambda connection: connection.execute("SELECT pg_backend_pid()").fetchone(),
        greet=_greet_postgresql,
    ),
    Kind(
        manager="mariadb",
        version="10.11",
        port=3306,
        verifier=mysql_native_password_verifier(PASSWORD),
        has_databases=True,
        connect=_mariadb,
        ask=_mariadb_ask,
        greet=_greet_mariadb,
    ),
    Kind(
        manager="redis",
        version="7.0",
        port=6379,
        verifier="#" + hashlib.sha256(PASSWORD.replace(" ", "-").encode()).hexdigest(),
        has_databases=False,
        connect=Redis,
        ask=lambda connection: connection.ask("CLIENT ID"),
        greet=lambda _: None,
    ),
]


@dataclass
class Clients:
    """Sessions that were opened at the beginning and ask without pause."""

    queries: int = 0
    failures: list[str] = field(default_factory=list)
    moved: int = 0

    @contextlib.contextmanager
    def asking(self, kind: Kind, address: str, authority: Path) -> Iterator[None]:
        ending = threading.Event()
        threads = [
            threading.Thread(
                target=self._ask, args=(kind, kind.connect(address, authority), ending)
            )
            for _ in range(SESSIONS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ending.set()
            for thread in threads:
                thread.join()

    def _ask(self, kind: Kind, connection: Any, ending: threading.Event) -> None:
        with contextlib.closing(connection):
            try:
                first = kind.ask(connection)
                while not ending.wait(0.005):
                    self.moved += kind.ask(connection) != first
                    self.queries += 1
            except Exception as error:
                self.failures.append(repr(error))


def leaf_shown(kind: Kind, address: str, authority: Path) -> bytes:
    """The leaf (DER) that a new connection is shown; raises where it does not verify."""
    context = ssl.create_default_context(cafile=authority)
    with socket.create_connection((address, kind.port), timeout=20) as plain:
        kind.greet(plain)
        with context.wrap_socket(plain, server_hostname=address) as connection:
            return connection.getpeercert(binary_form=True) or b""


class Rotation:
    """The control plane's side: other generations sign, the bundle says so."""

    def __init__(self, gateway: FakeGateway, machine: Machine) -> None:
        self._gateway = gateway
        self.root = machine.root
        self.old_only = self._file("old.pem", gateway.authority.signers[ROOT_KIND].pem)
        self.both = self._file("both.pem", self.old_only.read_bytes())

    def rotate(self, kind: trust_pb2.AuthorityKind.ValueType) -> None:
        gateway = self._gateway
        gateway.authority.rotate(kind)
        gateway.bundle_version += 1
        if kind == ROOT_KIND:
            new = gateway.authority.signers[ROOT_KIND].pem
            self._file("both.pem", self.old_only.read_bytes() + new)
            self._file("new.pem", new)
        for session in gateway.open:
            notice = pb.BundleNotice(bundle_version=gateway.bundle_version)
            session.send(bundle_notice=notice)

    def _file(self, name: str, content: bytes) -> Path:
        path = self.root / name
        path.write_bytes(content)
        return path


def action(kind: Kind, machine: Machine) -> pb.PrepareAction:
    databases = ["shop"] if kind.has_databases else []
    return pb.PrepareAction(
        manager=kind.manager,
        version=kind.version,
        listen_addresses=[machine.address],
        port=kind.port,
        memory_mib=256,
        databases=[engine_pb2.DatabaseSpec(name=name) for name in databases],
        users=[engine_pb2.UserSpec(name="ann", databases=databases, verifier=kind.verifier)],
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.manager)
async def test_clients_notice_nothing_while_database_authorities_rotate(
    kind: Kind, machine: Machine, gateway: FakeGateway
) -> None:
    machine.enrol_at_once()
    address, clients = machine.address, Clients()
    async with machine.agent(
        manager=kind.manager, engine_renewal_spread=type(machine.config().health_interval)(0)
    ):
        await gateway.connected()
        result = await gateway.command("prepare-1", prepare=action(kind, machine))
        assert result.error_reason == "", result.error_message
        rotation = Rotation(gateway, machine)

        def shown(authority: Path) -> bytes:
            return leaf_shown(kind, address, authority)

        with clients.asking(kind, address, rotation.old_only):
            for step in (INTERMEDIATE_KIND, INTERMEDIATE_KIND, ROOT_KIND, INTERMEDIATE_KIND):
                before = await asyncio.to_thread(shown, rotation.old_only)
                queries = clients.queries
                rotation.rotate(step)
                async with asyncio.timeout(60):
                    while await asyncio.to_thread(shown, rotation.old_only) == before:
                        assert clients.failures == []
                assert await asyncio.to_thread(shown, rotation.both) != before
                await eventually(lambda queries=queries: clients.queries > queries + SESSIONS)
            # Real clients too, each with its own way to verify.
            for authority in (rotation.old_only, rotation.both, rotation.root / "new.pem"):
                connection = await asyncio.to_thread(kind.connect, address, authority)
                connection.close()
    assert clients.failures == []
    assert clients.moved == 0
    folder = "engine/data/pgdata" if kind.manager == "postgresql" else "engine/data"
    roots = (machine.root / folder / "root.crt").read_bytes()
    assert roots == rotation.both.read_bytes()
