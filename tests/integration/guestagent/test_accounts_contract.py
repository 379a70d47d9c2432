"""What every engine with accounts promises, the fake one of other tests included."""

from __future__ import annotations

import pytest

from gateway.rest.dialects import dialect_of
from guestagent.engines import EngineSpec
from guestagent.engines.accounts import ROOT, Account
from guestagent.engines.catalogue import build_engine
from tests.fakes.engine import FakeDatabaseAuthority, FakeEngine
from trove_grpc.errors import AlreadyExistsError, InvalidRequestError, NotFoundError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import accounts_pb2

PORTS = {"fake": 1, "mariadb": 3306, "postgresql": 5432}
VERSIONS = {"fake": "1", "mariadb": "10.11", "postgresql": "15"}
# Quotes, wildcards, comments and escapes of both engines' SQL, their clients and our paths.
HOSTILE = (
    "a%b",
    "a_b",
    "axb",
    "ends\\",
    "'; DROP DATABASE shop; --",
    '"; DROP DATABASE shop; --',
    "`; DROP DATABASE shop; --",
    "\\'; DROP DATABASE shop; #",
    "ann@10.0.0.%",
    " a.b/c?d=%2e&f#{g}",
    ":x :'x' \\q $$;$1",
    "größe 你好",
)


@pytest.fixture(params=sorted(PORTS))
def manager(request):
    return request.param


@pytest.fixture
async def accounts(manager, machine, authority):
    """The accounts of a running engine, with its spec bound to each call."""
    is_fake = manager == "fake"
    engine = FakeEngine() if is_fake else build_engine(machine.config(manager=manager))
    spec = EngineSpec(
        version=VERSIONS[manager],
        listen_addresses=(machine.address,),
        port=PORTS[manager],
        memory_mib=256,
    )
    await engine.create(spec, FakeDatabaseAuthority(authority, [machine.address]))
    await engine.start(spec)
    return _Bound(engine.accounts, spec)


class _Bound:
    def __init__(self, accounts, spec):
        self._accounts, self._spec = accounts, spec

    def __getattr__(self, name):
        method = getattr(self._accounts, name)
        return lambda *arguments, **options: method(self._spec, *arguments, **options)

    async def make(self, *names):
        databases = [engine_pb2.DatabaseSpec(name=name) for name in names]
        await self.create_databases(databases, is_repeat=False)

    async def names(self, limit=100):
        return await self.list_databases(after="", limit=limit)


@pytest.fixture
def verifier(manager):
    return dialect_of("mariadb" if manager == "fake" else manager).verifier


@pytest.fixture
def user(verifier):
    return lambda name, *databases: engine_pb2.UserSpec(
        name=name, databases=databases, verifier=verifier("secret")
    )


async def test_databases_come_go_and_are_listed_in_pages(accounts):
    assert await accounts.names() == []
    await accounts.make("c", "a", "b")
    assert await accounts.list_databases(after="", limit=2) == ["a", "b"]
    assert await accounts.list_databases(after="b", limit=2) == ["c"]
    assert await accounts.list_databases(after="c", limit=2) == []
    again = [engine_pb2.DatabaseSpec(name="new"), engine_pb2.DatabaseSpec(name="a")]
    with pytest.raises(AlreadyExistsError) as caught:
        await accounts.create_databases(again, is_repeat=False)
    assert caught.value.reason == "DATABASE_EXISTS"
    assert "new" not in await accounts.names()
    await accounts.create_databases(again, is_repeat=True)
    await accounts.delete_database("b", is_repeat=False)
    with pytest.raises(NotFoundError) as caught:
        await accounts.delete_database("b", is_repeat=False)
    assert caught.value.reason == "DATABASE_NOT_FOUND"
    await accounts.delete_database("b", is_repeat=True)
    assert await accounts.names() == ["a", "c", "new"]


async def test_users_come_change_and_go_with_their_access(accounts, user, verifier):
    await accounts.make("shop", "other")
    with pytest.raises(NotFoundError):
        await accounts.create_users([user("eve", "none")], is_repeat=False)
    await accounts.create_users([user("ann", "shop"), user("bob")], is_repeat=False)
    with pytest.raises(AlreadyExistsError) as caught:
        await accounts.create_users([user("new"), user("ann")], is_repeat=False)
    assert caught.value.reason == "USER_EXISTS"
    await accounts.create_users([user("ann", "shop"), user("bob")], is_repeat=True)
    listed = await accounts.list_users(after=None, limit=5)
    assert [(item.name, item.host, list(item.databases)) for item in listed] == [
        ("ann", "%", ["shop"]),
        ("bob", "%", []),
    ]
    assert not any(item.verifier for item in listed)
    following = await accounts.list_users(after=Account("ann"), limit=1)
    assert [item.name for item in following] == ["bob"]
    await accounts.grant_access(Account("bob"), ["shop", "other"])
    await accounts.grant_access(Account("bob"), ["shop"])
    assert list((await accounts.get_user(Account("bob"))).databases) == ["other", "shop"]
    await accounts.revoke_access(Account("bob"), "other", is_repeat=False)
    with pytest.raises(NotFoundError) as caught:
        await accounts.revoke_access(Account("bob"), "other", is_repeat=False)
    assert caught.value.reason == "DATABASE_NOT_FOUND"
    await accounts.revoke_access(Account("bob"), "other", is_repeat=True)

    rename = accounts_pb2.UserChange(name="bob", new_name="rob", verifier=verifier("n"))
    await accounts.update_users([rename], is_repeat=False)
    await accounts.update_users([rename], is_repeat=True)
    assert list((await accounts.get_user(Account("rob"))).databases) == ["shop"]
    with pytest.raises(NotFoundError) as caught:
        await accounts.update_users([rename], is_repeat=False)
    assert caught.value.reason == "USER_NOT_FOUND"
    taken = accounts_pb2.UserChange(name="rob", new_name="ann")
    with pytest.raises(AlreadyExistsError):
        await accounts.update_users([taken], is_repeat=False)

    await accounts.delete_user(Account("rob"), is_repeat=False)
    with pytest.raises(NotFoundError):
        await accounts.delete_user(Account("rob"), is_repeat=False)
    await accounts.delete_user(Account("rob"), is_repeat=True)
    with pytest.raises(NotFoundError):
        await accounts.get_user(Account("rob"))
    with pytest.raises(NotFoundError):
        await accounts.grant_access(Account("rob"), ["shop"])


async def test_right_on_a_database_does_not_outlive_it(accounts, user):
    await accounts.make("shop")
    await accounts.create_users([user("ann", "shop")], is_repeat=False)
    await accounts.delete_database("shop", is_repeat=False)
    await accounts.make("shop")
    assert list((await accounts.get_user(Account("ann"))).databases) == []


async def test_root_is_enabled_twice_and_disabled_twice_and_never_listed(accounts, verifier):
    await accounts.disable_root()
    for password in ("one", "two"):
        await accounts.enable_root(verifier(password))
    assert await accounts.list_users(after=None, limit=5) == []
    for _ in range(2):
        await accounts.disable_root()
    await accounts.enable_root(verifier("three"))


async def test_what_belongs_to_the_engine_is_not_touched(accounts, user):
    await accounts.make("shop")
    for name in (ROOT, "os_admin"):
        with pytest.raises(InvalidRequestError):
            await accounts.create_users([user(name)], is_repeat=False)
        with pytest.raises((InvalidRequestError, NotFoundError)):
            await accounts.delete_user(Account(name), is_repeat=False)
        with pytest.raises((InvalidRequestError, NotFoundError)):
            await accounts.get_user(Account(name))
        with pytest.raises((InvalidRequestError, NotFoundError)):
            await accounts.grant_access(Account(name), ["shop"])
    await accounts.create_users([user("ann")], is_repeat=False)
    for name in (ROOT, "os_admin"):
        rename = accounts_pb2.UserChange(name="ann", new_name=name)
        with pytest.raises(InvalidRequestError):
            await accounts.update_users([rename], is_repeat=False)


async def test_hostile_names_are_names_and_nothing_else(accounts, user):
    await accounts.make("shop", *HOSTILE)
    await accounts.create_users([user(name, name) for name in HOSTILE], is_repeat=False)
    expected = sorted(("shop", *HOSTILE))
    found, after = [], ""
    while page := await accounts.list_databases(after=after, limit=3):
        found += page
        after = page[-1]
    assert found == expected
    users, last = [], None
    while page := await accounts.list_users(after=last, limit=3):
        users += page
        last = Account(page[-1].name, page[-1].host)
    assert [item.name for item in users] == sorted(HOSTILE)
    assert all(list(item.databases) == [item.name] for item in users)
    for name in HOSTILE:
        account = Account(name)
        await accounts.grant_access(account, ["shop"])
        await accounts.revoke_access(account, name, is_repeat=False)
        assert list((await accounts.get_user(account)).databases) == ["shop"]
        await accounts.delete_user(account, is_repeat=False)
        await accounts.delete_database(name, is_repeat=False)
    assert await accounts.names() == ["shop"]
    assert await accounts.list_users(after=None, limit=9) == []
