"""Rules of each engine, as a request meets them."""

from __future__ import annotations

import hashlib

import pytest

from gateway.rest import new_instance
from gateway.rest.dialects import dialect_of
from gateway.rest.dialects.rules import Dialect
from gateway.rest.fields import Fields
from gateway.rest.passwords import mysql_native_password_verifier
from trove_grpc.errors import InvalidRequestError, UnsupportedError

MARIADB = dialect_of("mariadb")


def databases(dialect: Dialect, *items: dict[str, str]) -> list[str]:
    instance = Fields({"databases": list(items)}, "instance")
    return [each.name for each in new_instance.read_databases(instance, dialect)]


def users(dialect: Dialect, *items: dict[str, str]) -> list[tuple[str, str]]:
    given = [{"password": "secret", **item} for item in items]
    found = new_instance.read_users(Fields({"users": given}, "instance"), dialect, [])
    return [(each.name, each.host) for each in found]


def test_verifier_is_what_password_answers():
    # SELECT PASSWORD('secret') in MariaDB.
    assert mysql_native_password_verifier("secret") == "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7"
    once = hashlib.sha1("größe".encode()).digest()  # noqa: S324  the protocol's own
    expected = "*" + hashlib.sha1(once).hexdigest().upper()  # noqa: S324
    assert mysql_native_password_verifier("größe") == expected


@pytest.mark.parametrize("host", ["10.0.0.7", "10.0.0.%", "10.%", "10.0.0.0/255.255.0.0", "::1"])
def test_addresses_limit_users_of_mariadb(host):
    assert users(MARIADB, {"name": "ann", "host": host}) == [("ann", host)]


@pytest.mark.parametrize(
    "host",
    ["localhost", "db.example", "10.0.0.0/24", "10.0.0.1/255.255.0.0", "%.7", "' OR 1", "1"],
)
def test_other_hosts_are_refused(host):
    with pytest.raises(InvalidRequestError, match="is no address"):
        users(MARIADB, {"name": "ann", "host": host})


def test_one_name_may_come_from_several_hosts_but_not_twice_from_everywhere():
    assert len(users(MARIADB, {"name": "ann"}, {"name": "ann", "host": "10.0.0.7"})) == 2
    with pytest.raises(InvalidRequestError, match="share the name"):
        users(MARIADB, {"name": "ann"}, {"name": "ann", "host": "%"})


@pytest.mark.parametrize("name", ["mysql", "Information_Schema", "SYS", "performance_schema"])
def test_databases_of_mariadb_itself_are_reserved_in_any_case(name):
    with pytest.raises(InvalidRequestError, match="reserved list"):
        databases(MARIADB, {"name": name})


@pytest.mark.parametrize("name", ["root", "os_admin", "ROOT", "mariadb.sys"])
def test_users_of_mariadb_and_the_agent_are_reserved(name):
    with pytest.raises(InvalidRequestError, match="reserved list"):
        users(MARIADB, {"name": name})


@pytest.mark.parametrize("name", ["x" * 65, "🛒", "ends "])
def test_names_mariadb_cannot_keep_are_refused(name):
    with pytest.raises(InvalidRequestError, match="Validation error"):
        databases(MARIADB, {"name": name})


def test_length_is_counted_as_the_engine_counts():
    assert databases(MARIADB, {"name": "ä" * 64}) == ["ä" * 64]
    with pytest.raises(InvalidRequestError, match="63 bytes"):
        databases(dialect_of("postgresql"), {"name": "ä" * 32})


@pytest.mark.parametrize(
    ("character_set", "collate"),
    [("utf8mb4", "utf8mb4_unicode_ci"), ("utf8", "utf8mb3_bin"), ("LATIN1", ""), ("", "binary")],
)
def test_character_sets_of_mariadb_are_known(character_set, collate):
    item = {"name": "a", "character_set": character_set, "collate": collate}
    assert databases(MARIADB, item) == ["a"]


@pytest.mark.parametrize(
    ("character_set", "collate"),
    [("latin99", ""), ("", "klingon_ci"), ("utf8mb4", "latin1_bin"), ("utf8'--", "")],
)
def test_other_character_sets_are_refused(character_set, collate):
    item = {"name": "a", "character_set": character_set, "collate": collate}
    with pytest.raises(InvalidRequestError, match="Validation error"):
        databases(MARIADB, item)


def test_what_an_engine_does_not_have_is_unsupported():
    nothing = Dialect(verifier=str, has_databases=False, has_users=False)
    with pytest.raises(UnsupportedError, match=r"instance\.databases"):
        databases(nothing, {"name": "a"})
    with pytest.raises(UnsupportedError, match=r"instance\.users"):
        users(nothing, {"name": "a"})
    assert databases(nothing) == []
