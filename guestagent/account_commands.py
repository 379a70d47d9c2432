"""Commands about what is inside the engine: databases, users, access and root.

Reads wait for nobody and are not journaled: they change nothing, and a page of names is no record
to keep. Changes hold the engine, so that no recovery or restart meets one half done.
"""

from __future__ import annotations

from guestagent.engines.accounts import ANYWHERE, Account, Accounts
from guestagent.engines.spec import EngineSpec
from guestagent.watcher import Watcher
from trove_grpc.errors import InvalidRequestError, UnsupportedError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import accounts_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as session_pb2

_MAX_PAGE = 100


class AccountCommands:
    """Carries them out on the engine that a watcher keeps."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    async def read(self, command: session_pb2.Command) -> session_pb2.CommandResult:
        accounts, spec = self._accounts(), self._watcher.answering()
        result = session_pb2.CommandResult(command_id=command.command_id)
        match command.WhichOneof("action"):
            case "list_databases":
                databases = await _list_databases(accounts, spec, command.list_databases)
                result.databases.CopyFrom(databases)
            case "list_users":
                result.users.CopyFrom(await _list_users(accounts, spec, command.list_users))
            case _:
                account = _account(command.get_user.name, command.get_user.host)
                result.users.users.append(await accounts.get_user(spec, account))
        return result

    async def change(self, command: session_pb2.Command, *, is_repeat: bool) -> None:
        accounts = self._accounts()
        async with self._watcher.holding() as spec:
            match command.WhichOneof("action"):
                case "create_databases" | "delete_database":
                    await self._change_databases(accounts, spec, command, is_repeat=is_repeat)
                case "create_users" | "update_users" | "delete_user":
                    await self._change_users(accounts, spec, command, is_repeat=is_repeat)
                case "grant_access" | "revoke_access":
                    await self._change_access(accounts, spec, command, is_repeat=is_repeat)
                case "enable_root":
                    await accounts.enable_root(spec, command.enable_root.verifier)
                case _:
                    await accounts.disable_root(spec)

    async def _change_databases(
        self,
        accounts: Accounts,
        spec: EngineSpec,
        command: session_pb2.Command,
        *,
        is_repeat: bool,
    ) -> None:
        if command.HasField("create_databases"):
            databases = command.create_databases.databases
            self._watcher.engine.capabilities.check(databases, ())
            await accounts.create_databases(spec, databases, is_repeat=is_repeat)
        else:
            name = command.delete_database.name
            await accounts.delete_database(spec, name, is_repeat=is_repeat)

    async def _change_users(
        self,
        accounts: Accounts,
        spec: EngineSpec,
        command: session_pb2.Command,
        *,
        is_repeat: bool,
    ) -> None:
        if command.HasField("create_users"):
            users = command.create_users.users
            self._watcher.engine.capabilities.check((), users)
            await accounts.create_users(spec, users, is_repeat=is_repeat)
        elif command.HasField("update_users"):
            changes = command.update_users.changes
            await accounts.update_users(spec, changes, is_repeat=is_repeat)
        else:
            account = _account(command.delete_user.name, command.delete_user.host)
            await accounts.delete_user(spec, account, is_repeat=is_repeat)

    async def _change_access(
        self,
        accounts: Accounts,
        spec: EngineSpec,
        command: session_pb2.Command,
        *,
        is_repeat: bool,
    ) -> None:
        if command.HasField("grant_access"):
            grant = command.grant_access
            account = _account(grant.name, grant.host)
            await accounts.grant_access(spec, account, grant.databases)
        else:
            revoke = command.revoke_access
            account = _account(revoke.name, revoke.host)
            await accounts.revoke_access(spec, account, revoke.database, is_repeat=is_repeat)

    def _accounts(self) -> Accounts:
        accounts = self._watcher.engine.accounts
        if accounts is None:
            manager = self._watcher.engine.capabilities.manager
            raise UnsupportedError(f"{manager} has no databases and users to manage")
        return accounts


async def _list_databases(
    accounts: Accounts, spec: EngineSpec, action: accounts_pb2.ListDatabasesAction
) -> accounts_pb2.DatabasesResult:
    size = _page_size(action.page_size)
    # One more tells whether there is a next page.
    names = await accounts.list_databases(spec, after=action.after, limit=size + 1)
    return accounts_pb2.DatabasesResult(
        databases=[engine_pb2.DatabaseSpec(name=name) for name in names[:size]],
        has_more=len(names) > size,
    )


async def _list_users(
    accounts: Accounts, spec: EngineSpec, action: accounts_pb2.ListUsersAction
) -> accounts_pb2.UsersResult:
    size = _page_size(action.page_size)
    after = _account(action.after_name, action.after_host) if action.after_name else None
    users = await accounts.list_users(spec, after=after, limit=size + 1)
    return accounts_pb2.UsersResult(users=users[:size], has_more=len(users) > size)


def _account(name: str, host: str) -> Account:
    return Account(name, host or ANYWHERE)


def _page_size(asked: int) -> int:
    if not 0 < asked <= _MAX_PAGE:
        raise InvalidRequestError(f"page_size is 1 to {_MAX_PAGE}")
    return asked
