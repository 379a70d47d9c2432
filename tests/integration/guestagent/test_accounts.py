"""Databases and users made by commands, seen from outside with the engines' own clients."""

from __future__ import annotations

import pytest

from gateway.rest.passwords import mysql_native_password_verifier
from tests.fakes.guest_gateway import FakeGateway
from tests.fakes.scram import verifier as scram_verifier
from tests.integration.guestagent.conftest import PASSWORD
from tests.integration.guestagent.test_mariadb import MariaMachine
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import accounts_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb


class Guest:
    """One engine, as its tenant sees it."""

    def __init__(self, machine, gateway: FakeGateway, manager: str):
        self.gateway = gateway
        self.manager = manager
        self.machine = MariaMachine(**vars(machine)) if manager == "mariadb" else machine
        self._commands = 0

    def verifier(self, password=PASSWORD):
        is_mariadb = self.manager == "mariadb"
        return (mysql_native_password_verifier if is_mariadb else scram_verifier)(password)

    def user(self, name, *databases):
        return engine_pb2.UserSpec(name=name, databases=databases, verifier=self.verifier())

    async def command(self, command_id="", **action):
        self._commands += 1
        return await self.gateway.command(command_id or f"api/{self._commands}", **action)

    async def do(self, **action):
        result = await self.command(**action)
        assert result.error_reason == "", result.error_message
        return result

    def log_in(self, name, database, query="SELECT 1", password=PASSWORD):
        if self.manager == "mariadb":
            return self.machine.sql(query, name=name, database=database, password=password)
        return self.machine.psql(query, user=name, database=database, PGPASSWORD=password)

    def administer(self, query):
        """What a tenant may have done with root in his hands."""
        done = self.log_in("root", "mysql" if self.manager == "mariadb" else "postgres", query)
        assert done.returncode == 0, done.stderr


@pytest.fixture(params=["mariadb", "postgresql"])
async def guest(request, machine, gateway: FakeGateway):
    guest = Guest(machine, gateway, request.param)
    machine.enrol_at_once()
    async with guest.machine.agent():
        await gateway.connected()
        if request.param == "mariadb":
            action = guest.machine.action(("shop",), (guest.user("ann", "shop"),))
        else:
            action = machine.prepare_action(("shop",), (guest.user("ann", "shop"),))
        await guest.do(prepare=action)
        yield guest


async def test_user_logs_in_as_long_as_he_has_access(guest):
    databases = [engine_pb2.DatabaseSpec(name="second")]
    await guest.do(create_databases=accounts_pb2.CreateDatabasesAction(databases=databases))
    users = [guest.user("bob", "second")]
    await guest.do(create_users=accounts_pb2.CreateUsersAction(users=users))
    assert guest.log_in("bob", "second", "CREATE TABLE t (a int)").returncode == 0
    assert guest.log_in("bob", "shop").returncode != 0
    await guest.do(grant_access=accounts_pb2.GrantAccessAction(name="bob", databases=["shop"]))
    assert guest.log_in("bob", "shop", "CREATE TABLE bobs (a int)").returncode == 0
    await guest.do(revoke_access=accounts_pb2.RevokeAccessAction(name="bob", database="second"))
    assert guest.log_in("bob", "second").returncode != 0

    change = accounts_pb2.UserChange(
        name="bob", new_name="rob", verifier=guest.verifier("another")
    )
    await guest.do(update_users=accounts_pb2.UpdateUsersAction(changes=[change]))
    assert guest.log_in("rob", "shop").returncode != 0
    assert guest.log_in("rob", "shop", password="another").returncode == 0
    assert guest.log_in("bob", "shop", password="another").returncode != 0

    # He owns tables in two databases, one of which he may not enter any more.
    await guest.do(delete_user=accounts_pb2.DeleteUserAction(name="rob"))
    assert guest.log_in("rob", "shop", password="another").returncode != 0
    await guest.do(delete_database=accounts_pb2.DeleteDatabaseAction(name="second"))
    listed = await guest.do(list_databases=accounts_pb2.ListDatabasesAction(page_size=9))
    assert [item.name for item in listed.databases.databases] == ["shop"]


async def test_root_has_every_right_until_it_is_disabled(guest):
    assert guest.log_in("root", "shop").returncode != 0
    root = accounts_pb2.EnableRootAction(verifier=guest.verifier())
    await guest.do(enable_root=root)
    guest.administer("CREATE DATABASE mine")
    again = accounts_pb2.EnableRootAction(verifier=guest.verifier("again"))
    await guest.do(enable_root=again)
    assert guest.log_in("root", "mine").returncode != 0
    assert guest.log_in("root", "mine", password="again").returncode == 0
    await guest.do(disable_root=accounts_pb2.DisableRootAction())
    assert guest.log_in("root", "mine", password="again").returncode != 0
    listed = await guest.do(list_databases=accounts_pb2.ListDatabasesAction(page_size=9))
    assert [item.name for item in listed.databases.databases] == ["mine", "shop"]


async def test_names_no_request_could_hold_are_left_out(guest):
    root = accounts_pb2.EnableRootAction(verifier=guest.verifier())
    await guest.do(enable_root=root)
    quote = "`" if guest.manager == "mariadb" else '"'
    for name in ("line\nbreak", "esc\x1b[2J", "c1\x85", "good"):
        guest.administer(f"CREATE DATABASE {quote}{name}{quote}")
        if guest.manager == "mariadb":
            guest.administer(f"CREATE USER '{name}'@'%'; GRANT ALL ON `shop`.* TO '{name}'@'%'")
            guest.administer(f"GRANT ALL ON `{name}`.* TO 'ann'@'%'")
        else:
            guest.administer(f'CREATE ROLE "{name}" LOGIN')
            guest.administer(f'GRANT CONNECT ON DATABASE "{name}" TO ann')
    databases = await guest.do(list_databases=accounts_pb2.ListDatabasesAction(page_size=9))
    assert [item.name for item in databases.databases.databases] == ["good", "shop"]
    users = (await guest.do(list_users=accounts_pb2.ListUsersAction(page_size=9))).users.users
    assert [(item.name, list(item.databases)) for item in users] == [
        ("ann", ["good", "shop"]),
        ("good", ["shop"] if guest.manager == "mariadb" else []),
    ]


async def test_repeated_command_is_carried_out_once_and_a_stopped_engine_refuses(guest):
    databases = [engine_pb2.DatabaseSpec(name="once")]
    action = accounts_pb2.CreateDatabasesAction(databases=databases)
    for _ in range(2):
        result = await guest.command("api/same", create_databases=action)
        assert result.error_reason == "", result.error_message
    other = await guest.command("api/other", create_databases=action)
    assert other.error_reason == "DATABASE_EXISTS"
    await guest.do(stop=pb.StopAction())
    refused = await guest.command(list_users=accounts_pb2.ListUsersAction(page_size=1))
    assert refused.error_reason == "ENGINE_NOT_RUNNING"
    later = [engine_pb2.DatabaseSpec(name="later")]
    action = accounts_pb2.CreateDatabasesAction(databases=later)
    refused = await guest.command("api/later", create_databases=action)
    assert refused.error_reason == "ENGINE_NOT_RUNNING"
    await guest.do(start=pb.StartAction())
    result = await guest.command("api/later", create_databases=action)
    assert result.error_reason == ""


async def test_no_verifier_is_told_where_the_engine_refuses(guest):
    users = [engine_pb2.UserSpec(name="eve", verifier="plain password")]
    refused = await guest.command(create_users=accounts_pb2.CreateUsersAction(users=users))
    assert refused.error_reason == "INVALID_REQUEST"
    assert "plain password" not in refused.error_message
    change = accounts_pb2.UserChange(name="ann", verifier="plain password")
    refused = await guest.command(update_users=accounts_pb2.UpdateUsersAction(changes=[change]))
    assert "plain password" not in refused.error_message
    root = accounts_pb2.EnableRootAction(verifier="plain password")
    refused = await guest.command(enable_root=root)
    assert refused.error_reason == "INVALID_REQUEST"
    assert "plain password" not in refused.error_message
