"""SQL about databases, roles and rights of a running PostgreSQL.

Names come back in hexadecimal: whatever they hold, "|" separates columns and NUL rows.
"""

# ruff: noqa: S608  no parameters over standard input: sql.quote_name and quote_text stand for them

from __future__ import annotations

from collections.abc import Iterable, Sequence

from guestagent.engines.accounts import MAX_GRANTS, ROOT
from guestagent.engines.postgresql import sql
from guestagent.engines.postgresql.settings import ADMINISTRATOR
from guestagent.engines.postgresql.sql import quote_name, quote_text, script

_DATABASE = 'd.datname::text COLLATE "C"'
_ROLE = 'r.rolname::text COLLATE "C"'
_CONTROL = quote_text(r"[\u0001-\u001f\u007f-\u009f]")


def list_databases(after: str, limit: int) -> str:
    return script(
        [
            (
                f"SELECT {_hex(_DATABASE)} FROM pg_catalog.pg_database d "
                f"WHERE {_is_tenants_database()} AND {_DATABASE} > {quote_text(after)} "
                f"ORDER BY {_DATABASE} LIMIT {limit:d};"
            )
        ]
    )


def list_users(after: str, limit: int) -> str:
    return script(
        [
            (
                f"SELECT {_hex(_ROLE)} FROM pg_catalog.pg_roles r "
                f"WHERE r.rolcanlogin AND {_ROLE} !~ '^pg_' "
                f"AND {_ROLE} NOT IN ({_texts(sorted(sql.RESERVED_USERS))}) "
                f"AND {_ROLE} !~ {_CONTROL} AND {_ROLE} > {quote_text(after)} "
                f"ORDER BY {_ROLE} LIMIT {limit:d};"
            )
        ]
    )


def known_databases(names: Iterable[str]) -> str:
    """Those of these that exist."""
    return script(
        [
            (
                f"SELECT {_hex(_DATABASE)} FROM pg_catalog.pg_database d "
                f"WHERE {_DATABASE} IN ({_texts(names)});"
            )
        ]
    )


def known_roles(names: Iterable[str]) -> str:
    """Those of these that exist, whether they may log in or not."""
    return script(
        [f"SELECT {_hex(_ROLE)} FROM pg_catalog.pg_roles r WHERE {_ROLE} IN ({_texts(names)});"]
    )


def grants_of(users: Iterable[str]) -> str:
    """Rows of user and database: who was let in by name, or owns it."""
    return script(
        [
            (
                f"SELECT DISTINCT {_hex(_ROLE)}, {_hex(_DATABASE)} "
                "FROM pg_catalog.pg_database d CROSS JOIN LATERAL pg_catalog.aclexplode("
                "coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) a "
                "JOIN pg_catalog.pg_roles r ON r.oid = a.grantee "
                f"WHERE a.privilege_type = 'CONNECT' AND {_is_tenants_database()} "
                f"AND {_ROLE} IN ({_texts(users)}) ORDER BY 1, 2 LIMIT {MAX_GRANTS:d};"
            )
        ]
    )


def delete_database(name: str) -> str:
    return script([f"DROP DATABASE IF EXISTS {quote_name(name)} WITH (FORCE);"])


def rename_user(old: str, new: str) -> str:
    return script([f"ALTER ROLE {quote_name(old)} RENAME TO {quote_name(new)};"])


def set_verifier(user: str, verifier: str) -> str:
    return script([f"ALTER ROLE {quote_name(user)} LOGIN PASSWORD {quote_text(verifier)};"])


def lock_out(user: str) -> str:
    """Before he is removed: nobody makes anything of his while it is given away."""
    return script([f"ALTER ROLE {quote_name(user)} NOLOGIN;", _end_connections(user)])


def databases_with_anything_of(user: str) -> str:
    """Where a role owns something or has a right; a role is removed when nowhere is left."""
    return script(
        [
            (
                f"SELECT DISTINCT {_hex(_DATABASE)} FROM pg_catalog.pg_shdepend s "
                "JOIN pg_catalog.pg_database d ON d.oid = s.dbid "
                "JOIN pg_catalog.pg_roles r ON r.oid = s.refobjid "
                f"WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass "
                f"AND {_ROLE} = {quote_text(user)} AND d.datallowconn;"
            )
        ]
    )


def give_away(user: str) -> str:
    """In the database one is connected to, and of databases themselves."""
    return script(
        [
            f"REASSIGN OWNED BY {quote_name(user)} TO {quote_name(ADMINISTRATOR)};",
            f"DROP OWNED BY {quote_name(user)};",
        ]
    )


def delete_user(user: str) -> str:
    return script([f"DROP ROLE IF EXISTS {quote_name(user)};"])


def grant_access(user: str, databases: Sequence[str]) -> str:
    return script(
        f"GRANT ALL ON DATABASE {quote_name(name)} TO {quote_name(user)};" for name in databases
    )


def revoke_access(user: str, database: str) -> str:
    """The right to connect first, then those who are connected."""
    return script(
        [
            f"REVOKE ALL ON DATABASE {quote_name(database)} FROM {quote_name(user)};",
            _end_connections(user, f" AND datname = {quote_text(database)}"),
        ]
    )


def revoke_schema(user: str) -> str:
    return script([f"REVOKE ALL ON SCHEMA public FROM {quote_name(user)};"])


def enable_root(verifier: str, *, exists: bool) -> str:
    name = quote_name(ROOT)
    return script(
        [
            *([] if exists else [f"CREATE ROLE {name};"]),
            f"ALTER ROLE {name} LOGIN SUPERUSER PASSWORD {quote_text(verifier)};",
        ]
    )


def disable_root() -> str:
    """Kept as a role without rights: what it owns stays where it is."""
    return script(
        [
            f"ALTER ROLE {quote_name(ROOT)} NOLOGIN NOSUPERUSER PASSWORD NULL;",
            _end_connections(ROOT),
        ]
    )


def _is_tenants_database() -> str:
    reserved = _texts(sorted(sql.RESERVED_DATABASES))
    return f"NOT d.datistemplate AND {_DATABASE} NOT IN ({reserved}) AND {_DATABASE} !~ {_CONTROL}"


def _end_connections(user: str, condition: str = "") -> str:
    # Not in the condition: its parts are evaluated in any order, and one is our own connection.
    return (
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity "
        f"WHERE usename = {quote_text(user)}{condition};"
    )


def _hex(expression: str) -> str:
    return f"pg_catalog.encode(pg_catalog.convert_to({expression}, 'UTF8'), 'hex')"


def _texts(texts: Iterable[str]) -> str:
    return ", ".join(quote_text(text) for text in texts)
