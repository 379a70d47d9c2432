"""SQL about databases, users and rights of a running MariaDB.

Names come back in hexadecimal: whatever they hold, a line is a row and a tab a column. Where one
may not be there, rows of the grant tables are removed instead of revoked: REVOKE knows a grant by
the pattern it was written with only, and fails where there is none.
"""

# ruff: noqa: S608  no parameters over standard input: sql.quote_name and quote_text stand for them

from __future__ import annotations

from collections.abc import Iterable, Sequence

from guestagent.engines.accounts import MAX_GRANTS, ROOT, Account
from guestagent.engines.mariadb import sql
from guestagent.engines.mariadb.sql import quote_name, quote_pattern, quote_text, script

_NAME = "CONVERT(s.schema_name USING utf8mb4) COLLATE utf8mb4_bin"
_USER = "CONVERT(u.User USING utf8mb4) COLLATE utf8mb4_bin"
_HOST = "CONVERT(u.Host USING utf8mb4) COLLATE utf8mb4_bin"
_CONTROL = quote_text(r"[\x{1}-\x{1f}\x{7f}-\x{9f}]")
# How a GRANT on exactly this database may be written in the grant tables.
_PATTERN = rf"REPLACE(REPLACE(REPLACE({_NAME}, '\', '\\'), '_', '\_'), '%', '\%')"


def list_databases(after: str, limit: int) -> str:
    return script(
        [
            (
                f"SELECT HEX({_NAME}) FROM information_schema.schemata s "
                f"WHERE {_is_tenants_database()} AND {_NAME} > {quote_text(after)} "
                f"ORDER BY {_NAME} LIMIT {limit:d};"
            )
        ]
    )


def known_databases(names: Iterable[str]) -> str:
    """Those of these that exist."""
    return script(
        [
            (
                f"SELECT HEX({_NAME}) FROM information_schema.schemata s "
                f"WHERE {_NAME} IN ({_texts(names)});"
            )
        ]
    )


def list_accounts(after: Account | None, limit: int) -> str:
    condition = ""
    if after is not None:
        condition = f"AND ({_USER}, {_HOST}) > {_pair(after)} "
    return script(
        [
            (
                f"SELECT HEX({_USER}), HEX({_HOST}) FROM mysql.user u WHERE {_is_tenants_user()} "
                f"{condition}ORDER BY {_USER}, {_HOST} LIMIT {limit:d};"
            )
        ]
    )


def known_accounts(accounts: Iterable[Account]) -> str:
    """Those of these that exist."""
    return script(
        [
            (
                f"SELECT HEX({_USER}), HEX({_HOST}) FROM mysql.user u "
                f"WHERE u.is_role = 'N' AND ({_USER}, {_HOST}) IN ({_pairs(accounts)});"
            )
        ]
    )


def accounts_named(name: str) -> str:
    return script(
        [
            (
                f"SELECT HEX({_USER}), HEX({_HOST}) FROM mysql.user u "
                f"WHERE {_USER} = {quote_text(name)};"
            )
        ]
    )


def grants_of(accounts: Iterable[Account]) -> str:
    """Rows of user, host and database; a wildcard that a tenant granted himself is none."""
    return script(
        [
            (
                f"SELECT HEX({_USER}), HEX({_HOST}), HEX({_NAME}) "
                "FROM mysql.db u JOIN information_schema.schemata s "
                f"ON CONVERT(u.Db USING utf8mb4) COLLATE utf8mb4_bin IN ({_NAME}, {_PATTERN}) "
                f"WHERE ({_USER}, {_HOST}) IN ({_pairs(accounts)}) AND {_is_tenants_database()} "
                f"ORDER BY {_USER}, {_HOST}, {_NAME} LIMIT {MAX_GRANTS:d};"
            )
        ]
    )


def delete_database(name: str) -> str:
    """With all rights on it: who comes to a later database of this name was not let in there."""
    return script(
        [
            f"DROP DATABASE IF EXISTS {quote_name(name)};",
            f"DELETE FROM mysql.db WHERE {_is_grant_on(name)};",
            "FLUSH PRIVILEGES;",
        ]
    )


def rename_user(old: Account, new: Account) -> str:
    return script([f"RENAME USER {_account(old)} TO {_account(new)};"])


def set_verifier(account: Account, verifier: str) -> str:
    return script([f"ALTER USER {_account(account)} {_identified(verifier)};"])


def delete_user(account: Account) -> str:
    return script([f"DROP USER IF EXISTS {_account(account)};", _end_connections(account.name)])


def grant_access(account: Account, databases: Sequence[str]) -> str:
    return script(
        f"GRANT ALL PRIVILEGES ON {quote_pattern(name)}.* TO {_account(account)};"
        for name in databases
    )


def revoke_access(account: Account, database: str) -> str:
    return script(
        [
            (
                f"DELETE FROM mysql.db WHERE User = {quote_text(account.name)} "
                f"AND Host = {quote_text(account.host)} AND {_is_grant_on(database)};"
            ),
            "FLUSH PRIVILEGES;",
            # Rights on the database one is in are looked up when one enters it.
            _end_connections(account.name),
        ]
    )


def enable_root(verifier: str) -> str:
    root = _account(Account(ROOT))
    return script(
        [
            f"CREATE USER IF NOT EXISTS {root} {_identified(verifier)};",
            f"ALTER USER {root} {_identified(verifier)};",
            f"GRANT ALL PRIVILEGES ON *.* TO {root} WITH GRANT OPTION;",
        ]
    )


def disable_root(accounts: Iterable[Account]) -> str:
    return script(
        [
            *(f"DROP USER IF EXISTS {_account(account)};" for account in accounts),
            _end_connections(ROOT),
        ]
    )


def _is_tenants_database() -> str:
    return (
        f"LOWER(s.schema_name) NOT IN ({_texts(sorted(sql.RESERVED_DATABASES))}) "
        f"AND {_NAME} NOT REGEXP {_CONTROL}"
    )


def _is_tenants_user() -> str:
    return (
        "u.is_role = 'N' AND u.User <> '' "
        f"AND LOWER(u.User) NOT IN ({_texts(sorted(sql.RESERVED_USERS))}) "
        f"AND {_USER} NOT REGEXP {_CONTROL} AND {_HOST} NOT REGEXP {_CONTROL}"
    )


def _is_grant_on(database: str) -> str:
    return f"Db IN ({_texts([database, sql.as_pattern(database)])})"


def _end_connections(name: str) -> str:
    return f"KILL HARD CONNECTION USER {quote_text(name)};"


def _identified(verifier: str) -> str:
    return f"IDENTIFIED WITH mysql_native_password AS {quote_text(verifier)}"


def _account(account: Account) -> str:
    return f"{quote_text(account.name)}@{quote_text(account.host)}"


def _pair(account: Account) -> str:
    return f"({quote_text(account.name)}, {quote_text(account.host)})"


def _pairs(accounts: Iterable[Account]) -> str:
    return ", ".join(_pair(account) for account in accounts)


def _texts(texts: Iterable[str]) -> str:
    return ", ".join(quote_text(text) for text in texts)
