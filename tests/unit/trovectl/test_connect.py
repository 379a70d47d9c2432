from __future__ import annotations

from pathlib import Path

import pytest

from trove_grpc.errors import InvalidRequestError, UnavailableError, UnsupportedError
from trovectl import connect
from trovectl.connect import Invocation, Target

HOME = {"PATH": "/bin", "HOME": "/home/ada"}


def target(manager: str, **changes: object) -> Target:
    values = {
        "manager": manager,
        "address": "127.70.0.9",
        "port": 1234,
        "user": "ada",
        "database": "",
        "authority": Path("/state/root.pem"),
    }
    return Target(**{**values, **changes})


@pytest.fixture
def reachable(monkeypatch):
    """The server proves itself; tests/integration/trovectl/test_connect.py has real ones."""
    monkeypatch.setattr(connect, "check_server", lambda _: None)


def test_psql_verifies_in_full_whatever_its_caller_had_in_mind():
    hostile = {
        "PGSSLMODE": "disable",
        "PGHOSTADDR": "10.0.0.1",
        "PGSERVICE": "elsewhere",
        "PGDATABASE": "other",
        "PGPASSFILE": "/home/ada/.pgpass",
    }
    made = connect.client(target("postgresql"), {**HOME, **hostile})
    assert made.argv == ("psql",)
    assert made.environment == {
        **HOME,
        "PGPASSFILE": "/home/ada/.pgpass",
        "PGHOST": "127.70.0.9",
        "PGPORT": "1234",
        "PGUSER": "ada",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/state/root.pem",
    }


def test_name_of_a_database_is_never_read_as_options():
    name = "host=evil sslmode=disable"
    made = connect.client(target("postgresql", database=name), HOME)
    assert made.environment["PGDATABASE"] == name
    assert name not in made.argv
    (option,) = (
        word
        for word in connect.client(target("mariadb", database="--ssl=0"), HOME).argv
        if "--ssl=0" in word
    )
    assert option == "--database=--ssl=0"


@pytest.mark.parametrize("manager", ["mariadb", "mysql"])
def test_mariadb_verifies_the_server_and_asks_for_the_password(manager):
    made = connect.client(target(manager), HOME)
    assert "--ssl-verify-server-cert" in made.argv
    assert "--ssl-ca=/state/root.pem" in made.argv
    assert made.argv[-1] == "--password"
    assert "--password" not in connect.client(target(manager), {**HOME, "MYSQL_PWD": "x"}).argv


@pytest.mark.usefixtures("reachable")
def test_redis_cli_speaks_tls_and_asks_for_the_password():
    made = connect.client(target("redis", database="3"), HOME)
    assert made.argv[1:] == (
        *("--tls", "--cacert", "/state/root.pem", "-h", "127.70.0.9", "-p", "1234"),
        *("--user", "ada", "--askpass", "-n", "3"),
    )
    asked = connect.client(target("redis"), {**HOME, "REDISCLI_AUTH": "secret"})
    assert "--askpass" not in asked.argv
    assert "secret" not in asked.argv


def test_redis_has_no_databases_by_name():
    with pytest.raises(InvalidRequestError, match="numbers"):
        connect.client(target("redis", database="shop"), HOME)


def test_engine_without_a_client_is_named():
    with pytest.raises(UnsupportedError, match="couch"):
        connect.client(target("couch"), HOME)


def test_client_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(UnavailableError, match="make setup"):
        connect.become(Invocation(("no-such-client",), {"PATH": str(tmp_path)}))
