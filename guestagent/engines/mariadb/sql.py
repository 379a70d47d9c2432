"""SQL for databases and users. Any name MariaDB allows is quoted, none is interpreted."""

from __future__ import annotations

import re
from collections.abc import Iterable

from guestagent.engines.mariadb.settings import ADMINISTRATOR
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2

_MAX_DATABASE = 64  # characters; the server's NAME_CHAR_LEN
_MAX_USER = 80
_MAX_HOST = 255
_LAST_OF_PLANE_0 = 0xFFFF  # the system tables are utf8mb3
_VERIFIER = re.compile(r"\A\*[0-9A-F]{40}\Z", re.ASCII)
_VERIFIER_INSIDE = re.compile(r"\*[0-9A-F]{2,40}", re.ASCII)
_SETTING = re.compile(r"\A[a-z0-9_]{0,64}\Z", re.ASCII)
RESERVED_DATABASES = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
RESERVED_USERS = frozenset({ADMINISTRATOR, "root", "mysql", "mariadb.sys", "public"})

# Quotes are then doubled and nothing else has a meaning inside them.
_PROLOGUE = "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES';\n"
VERSION = "SELECT VERSION();\n"
RELOAD_CERTIFICATE = "FLUSH SSL;\n"


def administrator_only(verifier: str) -> str:
    """For the first start without grants: the accounts a new cluster has, replaced by ours.

    Some of theirs are superusers without a password.
    """
    name = f"{quote_text(ADMINISTRATOR)}@'localhost'"
    secret = f"IDENTIFIED WITH mysql_native_password AS {quote_text(verifier)}"
    return script(
        [
            "DELETE FROM mysql.global_priv WHERE User <> 'mariadb.sys';",
            "DELETE FROM mysql.proxies_priv;",
            "DELETE FROM mysql.db;",
            "FLUSH PRIVILEGES;",
            f"CREATE USER {name} {secret};",
            f"GRANT ALL PRIVILEGES ON *.* TO {name} WITH GRANT OPTION;",
        ]
    )


def check_database(spec: engine_pb2.DatabaseSpec) -> None:
    check_database_name(spec.name)
    for value in (spec.character_set, spec.collation):
        if not _SETTING.match(value.lower()):
            raise InvalidRequestError(
                f"database {spec.name!r}: {value!r} is no character set or collation",
                subject=spec.name,
            )


def check_user(spec: engine_pb2.UserSpec) -> None:
    check_account(spec.name, spec.host)
    check_verifier(spec.name, spec.verifier)
    for database in spec.databases:
        check_database_name(database)


def check_account(name: str, host: str) -> None:
    """Raise for a user there cannot be, or who is not the tenant's."""
    _check_name(name, "user", _MAX_USER, RESERVED_USERS)
    if "\0" in host or len(host) > _MAX_HOST or not host.isascii():
        raise InvalidRequestError(f"user {name!r}: the host is not one", subject=name)


def check_verifier(user: str, verifier: str) -> None:
    """Anything else MariaDB would refuse, or keep as a password that nobody has."""
    if not _VERIFIER.match(verifier):
        raise InvalidRequestError(
            f"user {user!r} comes without a mysql_native_password verifier", subject=user
        )


def check_database_name(name: str) -> None:
    """Raise for a database there cannot be, or that is the engine's own."""
    _check_name(name, "database", _MAX_DATABASE, RESERVED_DATABASES)


def create_databases(specs: Iterable[engine_pb2.DatabaseSpec]) -> str:
    statements = []
    for spec in specs:
        options = ""
        if spec.character_set:
            options += f" CHARACTER SET {quote_text(spec.character_set)}"
        if spec.collation:
            options += f" COLLATE {quote_text(spec.collation)}"
        statements.append(f"CREATE DATABASE IF NOT EXISTS {quote_name(spec.name)}{options};")
    return script(statements)


def create_users(specs: Iterable[engine_pb2.UserSpec]) -> str:
    """Accounts with their verifiers, and all rights on their databases."""
    statements = []
    for spec in specs:
        account = f"{quote_text(spec.name)}@{quote_text(spec.host or '%')}"
        secret = f"IDENTIFIED WITH mysql_native_password AS {quote_text(spec.verifier)}"
        statements.append(f"CREATE USER IF NOT EXISTS {account} {secret};")
        statements.append(f"ALTER USER {account} {secret};")
        statements += [
            f"GRANT ALL PRIVILEGES ON {quote_pattern(database)}.* TO {account};"
            for database in spec.databases
        ]
    return script(statements)


def quote_name(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def quote_pattern(name: str) -> str:
    """A database in a GRANT is a pattern: its wildcards are meant literally."""
    return quote_name(as_pattern(name))


def as_pattern(name: str) -> str:
    """The pattern that matches this database alone."""
    return re.sub(r"([\\_%])", r"\\\1", name)


def quote_text(text: str) -> str:
    """A literal, with NO_BACKSLASH_ESCAPES."""
    return "'" + text.replace("'", "''") + "'"


def script(statements: Iterable[str]) -> str:
    return _PROLOGUE + "".join(f"{statement}\n" for statement in statements)


def without_verifiers(text: str) -> str:
    """The server's complaint may quote the statement."""
    return _VERIFIER_INSIDE.sub("*…", text)


def _check_name(name: str, kind: str, longest: int, reserved: frozenset[str]) -> None:
    legal = name and len(name) <= longest and "\0" not in name and not name.endswith(" ")
    if not legal or any(ord(character) > _LAST_OF_PLANE_0 for character in name):
        raise InvalidRequestError(
            f"{kind} name {name!r} must have 1 to {longest} characters of Unicode's first plane, "
            "no NUL, and no space at its end",
            subject=name,
        )
    if name.lower() in reserved:
        raise InvalidRequestError(
            f"{kind} name {name!r} belongs to MariaDB or its agent; choose another", subject=name
        )
