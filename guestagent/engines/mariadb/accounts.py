"""Accounts of MariaDB."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from guestagent.engines.accounts import (
    ROOT,
    Account,
    account_of,
    changed,
    database_exists,
    database_not_found,
    user_exists,
    user_not_found,
)
from guestagent.engines.mariadb import account_sql, sql
from guestagent.engines.spec import EngineSpec
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import accounts_pb2

# Runs a script as the administrator and returns what it prints.
RunSql = Callable[[str], Awaitable[bytes]]


class MariaDBAccounts:
    """Databases and users of one server."""

    def __init__(self, run_sql: RunSql) -> None:
        self._run_sql = run_sql

    async def list_databases(self, spec: EngineSpec, *, after: str, limit: int) -> list[str]:
        rows = await self._rows(account_sql.list_databases(after, limit))
        return [name for (name,) in rows]

    async def create_databases(
        self, spec: EngineSpec, databases: Sequence[engine_pb2.DatabaseSpec], *, is_repeat: bool
    ) -> None:
        for database in databases:
            sql.check_database(database)
        known = await self._known_databases(database.name for database in databases)
        if known and not is_repeat:
            raise database_exists(min(known))
        await self._run_sql(sql.create_databases(databases))

    async def delete_database(self, spec: EngineSpec, name: str, *, is_repeat: bool) -> None:
        sql.check_database_name(name)
        if not is_repeat:
            await self._check_databases([name])
        await self._run_sql(account_sql.delete_database(name))

    async def list_users(
        self, spec: EngineSpec, *, after: Account | None, limit: int
    ) -> list[engine_pb2.UserSpec]:
        rows = await self._rows(account_sql.list_accounts(after, limit))
        return await self._with_grants([Account(name, host) for name, host in rows])

    async def get_user(self, spec: EngineSpec, account: Account) -> engine_pb2.UserSpec:
        await self._check_user(account)
        (user,) = await self._with_grants([account])
        return user

    async def create_users(
        self, spec: EngineSpec, users: Sequence[engine_pb2.UserSpec], *, is_repeat: bool
    ) -> None:
        for user in users:
            sql.check_user(user)
        known = await self._known_accounts(account_of(user) for user in users)
        if known and not is_repeat:
            raise user_exists(min(known))
        await self._check_databases([name for user in users for name in user.databases])
        await self._run_sql(sql.create_users(users))

    async def update_users(
        self, spec: EngineSpec, changes: Sequence[accounts_pb2.UserChange], *, is_repeat: bool
    ) -> None:
        for change in changes:
            sql.check_account(change.name, change.host)
            sql.check_account(changed(change).name, change.new_host)
            if change.verifier:
                sql.check_verifier(change.name, change.verifier)
        for change in changes:
            await self._update(change, is_repeat=is_repeat)

    async def _update(self, change: accounts_pb2.UserChange, *, is_repeat: bool) -> None:
        old, new = account_of(change), changed(change)
        known = await self._known_accounts([old, new])
        if old not in known and not (is_repeat and new in known):
            raise user_not_found(old)
        if new != old and {old, new} <= known:
            raise user_exists(new)
        if new != old and old in known:
            await self._run_sql(account_sql.rename_user(old, new))
        if change.verifier:
            await self._run_sql(account_sql.set_verifier(new, change.verifier))

    async def delete_user(self, spec: EngineSpec, account: Account, *, is_repeat: bool) -> None:
        sql.check_account(account.name, account.host)
        if not is_repeat:
            await self._check_user(account)
        await self._run_sql(account_sql.delete_user(account))

    async def grant_access(
        self, spec: EngineSpec, account: Account, databases: Sequence[str]
    ) -> None:
        await self._check_user(account)
        await self._check_databases(databases)
        await self._run_sql(account_sql.grant_access(account, databases))

    async def revoke_access(
        self, spec: EngineSpec, account: Account, database: str, *, is_repeat: bool
    ) -> None:
        await self._check_user(account)
        sql.check_database_name(database)
        (user,) = await self._with_grants([account])
        if database not in user.databases and not is_repeat:
            raise database_not_found(database)
        await self._run_sql(account_sql.revoke_access(account, database))

    async def enable_root(self, spec: EngineSpec, verifier: str) -> None:
        sql.check_verifier(ROOT, verifier)
        await self._run_sql(account_sql.enable_root(verifier))

    async def disable_root(self, spec: EngineSpec) -> None:
        rows = await self._rows(account_sql.accounts_named(ROOT))
        accounts = [Account(name, host) for name, host in rows]
        await self._run_sql(account_sql.disable_root(accounts))

    async def _check_user(self, account: Account) -> None:
        sql.check_account(account.name, account.host)
        if not await self._known_accounts([account]):
            raise user_not_found(account)

    async def _check_databases(self, names: Sequence[str]) -> None:
        for name in names:
            sql.check_database_name(name)
        known = await self._known_databases(names)
        for name in names:
            if name not in known:
                raise database_not_found(name)

    async def _known_accounts(self, accounts: Iterable[Account]) -> set[Account]:
        asked = list(accounts)
        rows = await self._rows(account_sql.known_accounts(asked)) if asked else []
        return {Account(name, host) for name, host in rows}

    async def _known_databases(self, names: Iterable[str]) -> set[str]:
        asked = list(names)
        rows = await self._rows(account_sql.known_databases(asked)) if asked else []
        return {name for (name,) in rows}

    async def _with_grants(self, accounts: Sequence[Account]) -> list[engine_pb2.UserSpec]:
        users = {
            account: engine_pb2.UserSpec(name=account.name, host=account.host)
            for account in accounts
        }
        if users:
            for name, host, database in await self._rows(account_sql.grants_of(accounts)):
                users[Account(name, host)].databases.append(database)
        return list(users.values())

    async def _rows(self, script: str) -> list[list[str]]:
        printed = await self._run_sql(script)
        return [
            [bytes.fromhex(column).decode() for column in line.split("\t")]
            for line in printed.decode().splitlines()
        ]
