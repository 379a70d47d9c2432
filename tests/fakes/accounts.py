"""Databases and users in memory, behind the agent's Accounts protocol; held to the contract of
tests/integration/guestagent/test_accounts_contract.py."""

from __future__ import annotations

from collections.abc import Sequence

from guestagent.engines import EngineSpec
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
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import accounts_pb2

RESERVED_DATABASES = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
RESERVED_USERS = frozenset({"os_admin", ROOT})


class FakeAccounts:
    """Users are told apart by host, as MariaDB's are."""

    def __init__(self) -> None:
        self.databases: set[str] = set()
        self.users: dict[Account, set[str]] = {}
        self.verifiers: dict[Account, str] = {}
        self.root_verifier = ""

    async def list_databases(self, spec: EngineSpec, *, after: str, limit: int) -> list[str]:
        return sorted(name for name in self.databases if name > after)[:limit]

    async def create_databases(
        self, spec: EngineSpec, databases: Sequence[engine_pb2.DatabaseSpec], *, is_repeat: bool
    ) -> None:
        for database in databases:
            _check(database.name, RESERVED_DATABASES)
            if database.name in self.databases and not is_repeat:
                raise database_exists(database.name)
        self.databases |= {database.name for database in databases}

    async def delete_database(self, spec: EngineSpec, name: str, *, is_repeat: bool) -> None:
        _check(name, RESERVED_DATABASES)
        if not is_repeat:
            self._check_databases([name])
        self.databases.discard(name)
        for granted in self.users.values():
            granted.discard(name)

    async def list_users(
        self, spec: EngineSpec, *, after: Account | None, limit: int
    ) -> list[engine_pb2.UserSpec]:
        following = sorted(item for item in self.users if after is None or item > after)
        return [self._spec(account) for account in following[:limit]]

    async def get_user(self, spec: EngineSpec, account: Account) -> engine_pb2.UserSpec:
        self._check_user(account)
        return self._spec(account)

    async def create_users(
        self, spec: EngineSpec, users: Sequence[engine_pb2.UserSpec], *, is_repeat: bool
    ) -> None:
        for user in users:
            _check(user.name, RESERVED_USERS)
            if account_of(user) in self.users and not is_repeat:
                raise user_exists(account_of(user))
            self._check_databases(user.databases)
        for user in users:
            self.users[account_of(user)] = set(user.databases)
            self.verifiers[account_of(user)] = user.verifier

    async def update_users(
        self, spec: EngineSpec, changes: Sequence[accounts_pb2.UserChange], *, is_repeat: bool
    ) -> None:
        for change in changes:
            _check(changed(change).name, RESERVED_USERS)
        for change in changes:
            old, new = account_of(change), changed(change)
            if old not in self.users and not (is_repeat and new in self.users):
                raise user_not_found(old)
            if new != old and {old, new} <= self.users.keys():
                raise user_exists(new)
            if new != old and old in self.users:
                self.users[new] = self.users.pop(old)
                self.verifiers[new] = self.verifiers.pop(old)
            if change.verifier:
                self.verifiers[new] = change.verifier

    async def delete_user(self, spec: EngineSpec, account: Account, *, is_repeat: bool) -> None:
        _check(account.name, RESERVED_USERS)
        if not is_repeat:
            self._check_user(account)
        self.users.pop(account, None)

    async def grant_access(
        self, spec: EngineSpec, account: Account, databases: Sequence[str]
    ) -> None:
        self._check_user(account)
        self._check_databases(databases)
        self.users[account] |= set(databases)

    async def revoke_access(
        self, spec: EngineSpec, account: Account, database: str, *, is_repeat: bool
    ) -> None:
        self._check_user(account)
        if database not in self.users[account] and not is_repeat:
            raise database_not_found(database)
        self.users[account].discard(database)

    async def enable_root(self, spec: EngineSpec, verifier: str) -> None:
        self.root_verifier = verifier

    async def disable_root(self, spec: EngineSpec) -> None:
        self.root_verifier = ""

    def _spec(self, account: Account) -> engine_pb2.UserSpec:
        return engine_pb2.UserSpec(
            name=account.name, host=account.host, databases=sorted(self.users[account])
        )

    def _check_user(self, account: Account) -> None:
        _check(account.name, RESERVED_USERS)
        if account not in self.users:
            raise user_not_found(account)

    def _check_databases(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.databases:
                raise database_not_found(name)


def _check(name: str, reserved: frozenset[str]) -> None:
    if not name or name.lower() in reserved:
        raise InvalidRequestError(f"{name!r} is no name of a tenant's", subject=name)
