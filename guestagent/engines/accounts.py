"""Databases, users and their rights inside a running engine, behind the Accounts protocol.

Not every engine has it: one that does says so by the account actions among its capabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from guestagent.engines.spec import EngineSpec
from trove_grpc.errors import AlreadyExistsError, NotFoundError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import accounts_pb2

ANYWHERE = "%"
ROOT = "root"  # Trove's name for the superuser a tenant may ask for, whatever the engine
# Answers that change nothing, by Command.action field name.
READS = frozenset({"list_databases", "list_users", "get_user"})
CHANGES = frozenset(
    {
        "create_databases",
        "delete_database",
        "create_users",
        "update_users",
        "delete_user",
        "grant_access",
        "revoke_access",
        "enable_root",
        "disable_root",
    }
)
ACTIONS = READS | CHANGES
# Databases of all users of one answer, as accounts.proto says.
MAX_GRANTS = 1000


@dataclass(frozen=True, slots=True, order=True)
class Account:
    """A user, and the hosts he may come from, for engines that tell users apart by them."""

    name: str
    host: str = ANYWHERE


class Accounts(Protocol):
    """What is inside one engine, by its own programs; asked for only while it answers.

    Lists come in the order of code points, without the engine's own and without names that hold
    control characters: nothing outside could name them. `is_repeat` says that the same command
    was interrupted before: what it has done already is then no error.
    """

    async def list_databases(self, spec: EngineSpec, *, after: str, limit: int) -> list[str]: ...

    async def create_databases(
        self, spec: EngineSpec, databases: Sequence[engine_pb2.DatabaseSpec], *, is_repeat: bool
    ) -> None:
        """Raises AlreadyExistsError (DATABASE_EXISTS) and then makes none of them."""

    async def delete_database(self, spec: EngineSpec, name: str, *, is_repeat: bool) -> None:
        """With its content and all rights on it. Raises NotFoundError (DATABASE_NOT_FOUND)."""

    async def list_users(
        self, spec: EngineSpec, *, after: Account | None, limit: int
    ) -> list[engine_pb2.UserSpec]:
        """With their databases, MAX_GRANTS together at most; never with verifiers."""

    async def get_user(self, spec: EngineSpec, account: Account) -> engine_pb2.UserSpec:
        """Raises NotFoundError (USER_NOT_FOUND)."""

    async def create_users(
        self, spec: EngineSpec, users: Sequence[engine_pb2.UserSpec], *, is_repeat: bool
    ) -> None:
        """Raises AlreadyExistsError (USER_EXISTS) and then makes none of them."""

    async def update_users(
        self, spec: EngineSpec, changes: Sequence[accounts_pb2.UserChange], *, is_repeat: bool
    ) -> None: ...

    async def delete_user(self, spec: EngineSpec, account: Account, *, is_repeat: bool) -> None:
        """End his connections too. What he owns becomes the administrator's."""

    async def grant_access(
        self, spec: EngineSpec, account: Account, databases: Sequence[str]
    ) -> None:
        """All rights on databases that exist."""

    async def revoke_access(
        self, spec: EngineSpec, account: Account, database: str, *, is_repeat: bool
    ) -> None:
        """Raises NotFoundError (DATABASE_NOT_FOUND) where he has none. Ends connections."""

    async def enable_root(self, spec: EngineSpec, verifier: str) -> None:
        """Let ROOT in with every right; again with another verifier."""

    async def disable_root(self, spec: EngineSpec) -> None:
        """Keep ROOT out and end its connections; also where it never was."""


def database_exists(name: str) -> AlreadyExistsError:
    return AlreadyExistsError(
        f'A database with the name "{name}" already exists.', reason="DATABASE_EXISTS"
    )


def database_not_found(name: str) -> NotFoundError:
    return NotFoundError(
        f"Database {name} cannot be found on the instance.", reason="DATABASE_NOT_FOUND"
    )


def user_exists(account: Account) -> AlreadyExistsError:
    return AlreadyExistsError(
        f'A user with the name "{account.name}" already exists.', reason="USER_EXISTS"
    )


def user_not_found(account: Account) -> NotFoundError:
    return NotFoundError(
        f"User {account.name} cannot be found on the instance.", reason="USER_NOT_FOUND"
    )


def account_of(user: engine_pb2.UserSpec | accounts_pb2.UserChange) -> Account:
    return Account(user.name, user.host or ANYWHERE)


def changed(change: accounts_pb2.UserChange) -> Account:
    """Who a user is after a change."""
    return Account(change.new_name or change.name, change.new_host or change.host or ANYWHERE)
