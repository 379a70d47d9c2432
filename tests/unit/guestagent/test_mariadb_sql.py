"""MariaDB's SQL and settings, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestagent.engines import EngineSpec
from guestagent.engines.mariadb import settings, sql
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2

VERIFIER = "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7"  # "secret"
EVIL = "x`; DROP DATABASE mysql; -- ' \\"


def user(**changes: object) -> engine_pb2.UserSpec:
    return engine_pb2.UserSpec(**{"name": "ann", "verifier": VERIFIER, **changes})


def options(spec: EngineSpec, socket: Path = Path("/run/g/mariadb.sock")) -> dict[str, str]:
    text = settings.server_options(
        spec,
        data_directory=Path("/var/lib/a b/mysql"),
        temporary_directory=Path("/var/lib/a b/tmp"),
        socket=socket,
        certificate=Path("/var/lib/a b/server.pem"),
        include=Path("/var/lib/a b/tenant.cnf"),
    ).decode()
    lines = (line.partition(" = ") for line in text.splitlines() if " = " in line)
    return {name: value for name, _, value in lines}


def spec(**changes: object) -> EngineSpec:
    base = {"version": "10.11", "listen_addresses": ("127.1.2.3",), "port": 3306}
    return EngineSpec(**{**base, "memory_mib": 512, **changes})


def test_names_never_leave_their_quotes():
    script = sql.create_databases([engine_pb2.DatabaseSpec(name=EVIL)])
    assert "CREATE DATABASE IF NOT EXISTS `x``; DROP DATABASE mysql; -- ' \\`;" in script
    script = sql.create_users([user(name=EVIL, host="10.0.0.%")])
    assert "'x`; DROP DATABASE mysql; -- '' \\'@'10.0.0.%'" in script


def test_every_script_switches_backslashes_off_before_anything_is_quoted():
    for script in (
        sql.create_databases([]),
        sql.create_users([]),
        sql.administrator_only(VERIFIER),
    ):
        assert script.startswith("SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES';\n")


def test_wildcards_of_a_granted_database_are_meant_literally():
    assert sql.quote_pattern("a_b%c\\d") == "`a\\_b\\%c\\\\d`"


def test_a_user_without_host_may_come_from_anywhere():
    assert "'ann'@'%'" in sql.create_users([user()])


@pytest.mark.parametrize(
    "changes",
    [
        {"verifier": "secret"},
        {"verifier": VERIFIER.lower()},
        {"verifier": VERIFIER + "\n"},
        {"name": ""},
        {"name": "x" * 81},
        {"name": "🛒"},
        {"name": "OS_ADMIN"},
        {"name": "ends "},
        {"host": "größe"},
        {"databases": ["x" * 65]},
    ],
)
def test_users_that_cannot_be_are_refused(changes):
    with pytest.raises(InvalidRequestError):
        sql.check_user(user(**changes))


@pytest.mark.parametrize("name", ["", "Mysql", "SYS", "x" * 65, "a\0b", "🛒", "ends "])
def test_databases_that_cannot_be_are_refused(name):
    with pytest.raises(InvalidRequestError):
        sql.check_database(engine_pb2.DatabaseSpec(name=name))


def test_character_sets_are_words_only():
    sql.check_database(engine_pb2.DatabaseSpec(name="a", character_set="UTF8MB4"))
    with pytest.raises(InvalidRequestError):
        sql.check_database(engine_pb2.DatabaseSpec(name="a", collation="x' --"))


def test_complaints_are_shown_without_verifiers():
    said = f"syntax error near '{VERIFIER}' and a cut one '{VERIFIER[:20]}"
    assert sql.without_verifiers(said) == "syntax error near '*…' and a cut one '*…"


def test_settings_demand_tls_and_quote_paths():
    found = options(spec())
    assert found["require_secure_transport"] == "ON"
    assert found["skip_name_resolve"] == "ON"
    assert found["ssl_cert"] == found["ssl_key"] == '"/var/lib/a b/server.pem"'
    assert found["bind_address"] == "127.1.2.3"


@pytest.mark.parametrize("memory", [0, 128, 512, 65536])
def test_memory_is_never_given_away_twice(memory):
    found = options(spec(memory_mib=memory))
    assert 42 <= int(found["innodb_buffer_pool_size"][:-1]) <= max(memory, 128) // 3
    assert 16 <= int(found["innodb_log_file_size"][:-1]) <= 96
    assert 50 <= int(found["max_connections"]) <= 500


def test_administrator_comes_through_the_socket():
    text = settings.administrator_options(Path("/run/g/mariadb.sock"), "pass-word").decode()
    assert 'socket = "/run/g/mariadb.sock"' in text
    assert settings.password_of(text.encode()) == "pass-word"
