"""SQL for databases and users. Any name PostgreSQL allows is quoted, none is interpreted."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from guestagent.engines.postgresql.settings import ADMINISTRATOR
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2

_MAX_NAME_BYTES = 63  # NAMEDATALEN - 1; PostgreSQL would cut the rest silently
_VERIFIER = re.compile(
    r"\ASCRAM-SHA-256\$[1-9][0-9]{0,9}:[A-Za-z0-9+/]{1,128}={0,2}"
    r"\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=\Z",
    re.ASCII,
)
RESERVED_DATABASES = frozenset({"postgres", "template0", "template1"})
RESERVED_USERS = frozenset({ADMINISTRATOR, "postgres", "root", "public", "none"})

# Statements hold verifiers: keep them out of the server's log whatever its settings are.
SILENCE = (
    "\\set VERBOSITY terse\n"
    "SET log_statement = 'none';\n"
    "SET log_min_error_statement = 'panic';\n"
    "SET log_min_duration_statement = -1;\n"
    "SET log_min_duration_sample = -1;\n"
)
LIST_DATABASES = "SELECT datname FROM pg_catalog.pg_database;\n"
LIST_ROLES = "SELECT rolname FROM pg_catalog.pg_roles;\n"
LIST_PENDING = "SELECT name FROM pg_catalog.pg_settings WHERE pending_restart;\n"
LOAD_TIME = "SELECT pg_catalog.pg_conf_load_time();\n"
FORGET_TRIED = "ALTER SYSTEM RESET ALL;\n"


def check_database(spec: engine_pb2.DatabaseSpec) -> None:
    check_database_name(spec.name)
    for value in (spec.character_set, spec.collation):
        if "\0" in value:
            raise InvalidRequestError("character set and collation must not contain NUL")


def check_user(spec: engine_pb2.UserSpec) -> None:
    check_user_name(spec.name)
    check_verifier(spec.name, spec.verifier)
    for database in spec.databases:
        _check_name(database, "database")


def check_database_name(name: str) -> None:
    """Raise for a database there cannot be, or that is the engine's own."""
    _check_name(name, "database")
    if name in RESERVED_DATABASES:
        raise InvalidRequestError(
            f"database name {name!r} belongs to PostgreSQL itself; choose another", subject=name
        )


def check_user_name(name: str) -> None:
    """Raise for a user there cannot be, or who is not the tenant's."""
    _check_name(name, "user")
    if name in RESERVED_USERS or name.startswith("pg_"):
        raise InvalidRequestError(
            f"user name {name!r} belongs to PostgreSQL or its agent; choose another", subject=name
        )


def check_verifier(user: str, verifier: str) -> None:
    """Anything else PostgreSQL would take for a password and hash."""
    if not _VERIFIER.match(verifier):
        raise InvalidRequestError(
            f"user {user!r} comes without a SCRAM-SHA-256 verifier", subject=user
        )


def create_databases(specs: Iterable[engine_pb2.DatabaseSpec], existing: Collection[str]) -> str:
    """What is missing, and for each that nobody may connect who was not granted it."""
    statements = []
    for spec in specs:
        name = quote_name(spec.name)
        if spec.name not in existing:
            options = ["TEMPLATE template0"]
            if spec.character_set:
                options.append(f"ENCODING {quote_text(spec.character_set)}")
            if spec.collation:
                options.append(f"LOCALE {quote_text(spec.collation)}")
            statements.append(f"CREATE DATABASE {name} {' '.join(options)};")
        statements.append(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;")
    return script(statements)


def create_users(specs: Iterable[engine_pb2.UserSpec], existing: Collection[str]) -> str:
    """Roles that may log in, with their verifiers, and their right to connect."""
    statements = []
    for spec in specs:
        name = quote_name(spec.name)
        if spec.name not in existing:
            statements.append(f"CREATE ROLE {name} LOGIN;")
        statements.append(f"ALTER ROLE {name} LOGIN PASSWORD {quote_text(spec.verifier)};")
        statements += [
            f"GRANT ALL ON DATABASE {quote_name(database)} TO {name};"
            for database in spec.databases
        ]
    return script(statements)


def grant_schema(users: Sequence[str]) -> str:
    """Inside a database: since PostgreSQL 15 only its owner may create in schema public."""
    return script(f"GRANT ALL ON SCHEMA public TO {quote_name(user)};" for user in users)


def close_system_databases() -> str:
    """Tenants' users have no business in PostgreSQL's own databases."""
    return script(
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;" for name in ("postgres", "template1")
    )


def try_settings(values: Mapping[str, str]) -> str:
    """Each value written where nothing reads it yet: the server refuses what it cannot be."""
    return "".join(
        f"ALTER SYSTEM SET {quote_name(name)} = {quote_text(value)};\n"
        for name, value in values.items()
    )


def quote_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """A literal, with standard_conforming_strings (the default since 9.1)."""
    return "'" + text.replace("'", "''") + "'"


def script(statements: Iterable[str]) -> str:
    return "".join(f"{statement}\n" for statement in statements)


def _check_name(name: str, kind: str) -> None:
    if not name or "\0" in name or len(name.encode()) > _MAX_NAME_BYTES:
        raise InvalidRequestError(
            f"{kind} name {name!r} must have 1 to {_MAX_NAME_BYTES} bytes in UTF-8 and no NUL",
            subject=name,
        )
