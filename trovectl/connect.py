"""`trovectl connect NAME`: the engine's own client, everything about the server verified.

We become the client (exec), so that its prompt, its signals and its exit status are its own. It
asks for the password itself: none passes through us.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from trove_grpc.errors import (
    ConflictError,
    InvalidRequestError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.tls import IdentityDirectory, anchors, write_atomically
from trovectl.client import Installation
from trovectl.guest import GuestRecord
from trovectl.layout import Layout

_CONNECT_SECONDS = 10.0
# What psql may take from its caller; the rest would lead elsewhere or verify less.
_PSQL_KEEPS = frozenset({"PGPASSWORD", "PGPASSFILE", "PGCLIENTENCODING", "PGTZ", "PGDATESTYLE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A database and who wants in."""

    manager: str
    address: str
    port: int
    user: str
    database: str  # empty: the client's own default
    authority: Path  # PEM of the database root


@dataclass(frozen=True, slots=True)
class Invocation:
    """A client's command line and environment."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


async def find(state: Path, name_or_id: str, *, user: str, database: str) -> Target:
    """Where an instance's engine listens; raises ConflictError while it has no address."""
    view = await Installation(state).instance(name_or_id)
    places = Layout(state)
    record = GuestRecord.load(places.guest(view.id) / "guest.json")
    if not view.addresses or record is None:
        raise ConflictError(
            f"{view.name} has no address yet (it is in {view.status}); "
            f"`trovectl events {view.id}` shows how far it is",
            reason="INSTANCE_NOT_READY",
            subject=view.id,
        )
    authority = places.operator.parent / "database-root.pem"
    bundle = IdentityDirectory(places.operator).bundle()
    roots = anchors(bundle, {trust_pb2.AUTHORITY_KIND_DATABASE_ROOT})
    write_atomically(authority, roots, mode=0o644)
    return Target(
        manager=view.datastore_version.manager,
        address=view.addresses[0],
        port=record.port,
        user=user,
        database=database,
        authority=authority,
    )


def client(target: Target, environment: Mapping[str, str]) -> Invocation:
    """How the engine's client is called; `environment` is our caller's own."""
    build = _CLIENTS.get(target.manager)
    if build is None:
        raise UnsupportedError(
            f"no client is known for {target.manager!r}; known: {', '.join(sorted(_CLIENTS))}"
        )
    return build(target, environment)


def become(invocation: Invocation) -> NoReturn:
    """Replace this process by the client; raises UnavailableError when it is not installed."""
    try:
        os.execvpe(invocation.argv[0], invocation.argv, invocation.environment)  # noqa: S606
    except FileNotFoundError:
        raise UnavailableError(
            f"there is no {invocation.argv[0]} on PATH; `make setup` installs the clients"
        ) from None


def _psql(target: Target, environment: Mapping[str, str]) -> Invocation:
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith("PG") or name in _PSQL_KEEPS
    }
    # By environment: psql would read a database name with "=" in it as options.
    wanted = {
        "PGHOST": target.address,
        "PGPORT": str(target.port),
        "PGUSER": target.user,
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(target.authority),
    }
    if target.database:
        wanted["PGDATABASE"] = target.database
    return Invocation(("psql",), {**kept, **wanted})


def _mariadb(target: Target, environment: Mapping[str, str]) -> Invocation:
    program = "mariadb" if shutil.which("mariadb") else "mysql"
    argv = [
        program,
        *("--protocol=tcp", f"--host={target.address}", f"--port={target.port}"),
        *(f"--ssl-ca={target.authority}", "--ssl-verify-server-cert", f"--user={target.user}"),
    ]
    if "MYSQL_PWD" not in environment:
        argv.append("--password")  # without a value: it asks
    if target.database:
        argv.append(f"--database={target.database}")
    return Invocation(tuple(argv), environment)


def _redis(target: Target, environment: Mapping[str, str]) -> Invocation:
    if target.database and not target.database.isdecimal():
        raise InvalidRequestError(
            f"Redis numbers its databases: {target.database!r} is none, 0 to 15 are"
        )
    check_server(target)
    program = "redis-cli" if shutil.which("redis-cli") else "valkey-cli"
    argv = [
        *(program, "--tls", "--cacert", str(target.authority), "-h", target.address),
        *("-p", str(target.port), "--user", target.user),
    ]
    if "REDISCLI_AUTH" not in environment:
        argv.append("--askpass")
    if target.database:
        argv += ["-n", target.database]
    return Invocation(tuple(argv), environment)


def check_server(target: Target) -> None:
    """Raise unless the server proves to be the one at this address.

    redis-cli verifies that our authority signed the server's certificate, and not whose address
    stands in it: a moment before it, we do.
    """
    context = ssl.create_default_context(cafile=str(target.authority))
    where = f"{target.address}:{target.port}"
    try:
        with (
            socket.create_connection((target.address, target.port), _CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=target.address),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise UnauthenticatedError(
            f"the server at {where} does not prove to be this instance: {error.verify_message}",
            reason="SERVER_NOT_VERIFIED",
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"no server answers at {where}: {error.strerror or error}; `trovectl status` shows "
            "what the agent sees"
        ) from error


_CLIENTS: dict[str, Callable[[Target, Mapping[str, str]], Invocation]] = {
    "mariadb": _mariadb,
    "mysql": _mariadb,
    "postgresql": _psql,
    "redis": _redis,
    "valkey": _redis,
}
