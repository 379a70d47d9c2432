"""Accounts of PostgreSQL. Its users are told apart by name alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from guestagent.engines.accounts import (
    ANYWHERE,
    ROOT,
    Account,
    account_of,
    changed,
    database_exists,
    database_not_found,
    user_exists,
    user_not_found,
)
from guestagent.engines.postgresql import account_sql, sql
from guestagent.engines.spec import EngineSpec
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import accounts_pb2


class RunSql(Protocol):
    """Runs a script as the administrator, by default in his own database."""

    async def __call__(
        self, spec: EngineSpec, script: str, *, database: str = "postgres"
    ) -> bytes: ...


class PostgreSQLAccounts:
    """Databases and roles of one cluster."""

    def __init__(self, run_sql: RunSql) -> None:
        self._run_sql = run_sql

    async def list_databases(self, spec: EngineSpec, *, after: str, limit: int) -> list[str]:
        return await self._column(spec, account_sql.list_databases(after, limit))

    async def create_databases(
        self, spec: EngineSpec, databases: Sequence[engine_pb2.DatabaseSpec], *, is_repeat: bool
    ) -> None:
        for database in databases:
            sql.check_database(database)
        known = await self._known_databases(spec, (database.name for database in databases))
        if known and not is_repeat:
            raise database_exists(min(known))
        await self._run_sql(spec, sql.create_databases(databases, known))

    async def delete_database(self, spec: EngineSpec, name: str, *, is_repeat: bool) -> None:
        sql.check_database_name(name)
        if not is_repeat:
            await self._check_databases(spec, [name])
        await self._run_sql(spec, account_sql.delete_database(name))

    async def list_users(
        self, spec: EngineSpec, *, after: Account | None, limit: int
    ) -> list[engine_pb2.UserSpec]:
        script = account_sql.list_users("" if after is None else after.name, limit)
        return await self._with_grants(spec, await self._column(spec, script))

    async def get_user(self, spec: EngineSpec, account: Account) -> engine_pb2.UserSpec:
        await self._check_user(spec, account)
        (user,) = await self._with_grants(spec, [account.name])
        return user

    async def create_users(
        self, spec: EngineSpec, users: Sequence[engine_pb2.UserSpec], *, is_repeat: bool
    ) -> None:
        for user in users:
            _check_account(account_of(user))
            sql.check_user(user)
        known = await self._known_roles(spec, (user.name for user in users))
        if known and not is_repeat:
            raise user_exists(Account(min(known)))
        databases = [name for user in users for name in user.databases]
        await self._check_databases(spec, databases)
        await self._run_sql(spec, sql.create_users(users, known))
        for database in sorted(set(databases)):
            granted = [user.name for user in users if database in user.databases]
            await self._run_sql(spec, sql.grant_schema(granted), database=database)

    async def update_users(
        self, spec: EngineSpec, changes: Sequence[accounts_pb2.UserChange], *, is_repeat: bool
    ) -> None:
        for change in changes:
            _check_account(account_of(change))
            _check_account(changed(change))
            if change.verifier:
                sql.check_verifier(change.name, change.verifier)
        for change in changes:
            await self._update(spec, change, is_repeat=is_repeat)

    async def _update(
        self, spec: EngineSpec, change: accounts_pb2.UserChange, *, is_repeat: bool
    ) -> None:
        old, new = change.name, changed(change).name
        known = await self._known_roles(spec, [old, new])
        if old not in known and not (is_repeat and new in known):
            raise user_not_found(Account(old))
        if new != old and {old, new} <= known:
            raise user_exists(Account(new))
        if new != old and old in known:
            await self._run_sql(spec, account_sql.rename_user(old, new))
        if change.verifier:
            await self._run_sql(spec, account_sql.set_verifier(new, change.verifier))

    async def delete_user(self, spec: EngineSpec, account: Account, *, is_repeat: bool) -> None:
        _check_account(account)
        if account.name not in await self._known_roles(spec, [account.name]):
            if is_repeat:
                return
            raise user_not_found(account)
        await self._run_sql(spec, account_sql.lock_out(account.name))
        script = account_sql.databases_with_anything_of(account.name)
        for database in [*await self._column(spec, script), "postgres"]:
            await self._run_sql(spec, account_sql.give_away(account.name), database=database)
        await self._run_sql(spec, account_sql.delete_user(account.name))

    async def grant_access(
        self, spec: EngineSpec, account: Account, databases: Sequence[str]
    ) -> None:
        await self._check_user(spec, account)
        await self._check_databases(spec, databases)
        await self._run_sql(spec, account_sql.grant_access(account.name, databases))
        for database in databases:
            script = sql.grant_schema([account.name])
            await self._run_sql(spec, script, database=database)

    async def revoke_access(
        self, spec: EngineSpec, account: Account, database: str, *, is_repeat: bool
    ) -> None:
        await self._check_user(spec, account)
        sql.check_database_name(database)
        (user,) = await self._with_grants(spec, [account.name])
        if database not in user.databases and not is_repeat:
            raise database_not_found(database)
        await self._run_sql(spec, account_sql.revoke_schema(account.name), database=database)
        await self._run_sql(spec, account_sql.revoke_access(account.name, database))

    async def enable_root(self, spec: EngineSpec, verifier: str) -> None:
        sql.check_verifier(ROOT, verifier)
        exists = bool(await self._known_roles(spec, [ROOT]))
        await self._run_sql(spec, account_sql.enable_root(verifier, exists=exists))

    async def disable_root(self, spec: EngineSpec) -> None:
        if await self._known_roles(spec, [ROOT]):
            await self._run_sql(spec, account_sql.disable_root())

    async def _check_user(self, spec: EngineSpec, account: Account) -> None:
        _check_account(account)
        if not await self._known_roles(spec, [account.name]):
            raise user_not_found(account)

    async def _check_databases(self, spec: EngineSpec, names: Sequence[str]) -> None:
        for name in names:
            sql.check_database_name(name)
        known = await self._known_databases(spec, names)
        for name in names:
            if name not in known:
                raise database_not_found(name)

    async def _known_roles(self, spec: EngineSpec, names: Iterable[str]) -> set[str]:
        asked = list(names)
        return set(await self._column(spec, account_sql.known_roles(asked))) if asked else set()

    async def _known_databases(self, spec: EngineSpec, names: Iterable[str]) -> set[str]:
        asked = list(names)
        if not asked:
            return set()
        return set(await self._column(spec, account_sql.known_databases(asked)))

    async def _with_grants(
        self, spec: EngineSpec, names: Sequence[str]
    ) -> list[engine_pb2.UserSpec]:
        users = {name: engine_pb2.UserSpec(name=name, host=ANYWHERE) for name in names}
        if users:
            for name, database in await self._rows(spec, account_sql.grants_of(names)):
                users[name].databases.append(database)
        return list(users.values())

    async def _column(self, spec: EngineSpec, script: str) -> list[str]:
        return [name for (name,) in await self._rows(spec, script)]

    async def _rows(self, spec: EngineSpec, script: str) -> list[list[str]]:
        printed = await self._run_sql(spec, script)
        return [
            [bytes.fromhex(column).decode() for column in row.split("|")]
            for row in printed.decode().split("\0")
            if row.strip()
        ]


def _check_account(account: Account) -> None:
    if account.host != ANYWHERE:
        raise InvalidRequestError(
            f"user {account.name!r} is limited to host {account.host!r}, which users of "
            "PostgreSQL cannot be; leave the host out",
            subject=account.name,
        )
    sql.check_user_name(account.name)
