from __future__ import annotations

import pytest

from guestagent.engines import EngineSpec
from guestagent.engines.postgresql import settings, sql
from guestagent.engines.tools import check_socket
from tests.fakes.scram import verifier
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2


def spec(**changes):
    base = {"version": "15", "listen_addresses": ("127.0.0.9",), "port": 5432, "memory_mib": 1024}
    return EngineSpec(**{**base, **changes})


def test_names_and_texts_are_quoted_by_doubling():
    assert sql.quote_name('a"b') == '"a""b"'
    assert sql.quote_text("a'b\\") == "'a''b\\'"


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 64, "ö" * 32])
def test_name_postgresql_would_refuse_or_cut_is_refused(name):
    with pytest.raises(InvalidRequestError):
        sql.check_database(engine_pb2.DatabaseSpec(name=name))


@pytest.mark.parametrize("name", ["x" * 63, "a b", 'q"q', "größe", "a\nb", "\\q", ":x", "; DROP"])
def test_any_legal_name_is_accepted(name):
    sql.check_database(engine_pb2.DatabaseSpec(name=name))
    sql.check_user(engine_pb2.UserSpec(name=name, verifier=verifier("pw")))


@pytest.mark.parametrize(
    "text", ["", "secret", "md5abc", verifier("pw") + "'", verifier("pw") + "\n", "SCRAM-SHA-256$"]
)
def test_anything_but_a_verifier_is_refused_without_repeating_it(text):
    with pytest.raises(InvalidRequestError) as caught:
        sql.check_user(engine_pb2.UserSpec(name="ann", verifier=text))
    assert not text or text not in caught.value.message


def test_existing_databases_and_users_are_not_created_again():
    database = engine_pb2.DatabaseSpec(name="shop", character_set="UTF8", collation="C.UTF-8")
    script = sql.create_databases([database], set())
    assert (
        "CREATE DATABASE \"shop\" TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8';" in script
    )
    assert "CREATE" not in sql.create_databases([database], {"shop"})
    user = engine_pb2.UserSpec(name="ann", databases=["shop"], verifier=verifier("pw"))
    assert 'CREATE ROLE "ann" LOGIN;' in sql.create_users([user], set())
    again = sql.create_users([user], {"ann"})
    assert "CREATE" not in again
    assert 'GRANT ALL ON DATABASE "shop" TO "ann";' in again


def test_settings_scale_with_memory_and_carry_addresses(tmp_path):
    conf = settings.postgresql_conf(spec(listen_addresses=("127.0.0.9", "::1")), tmp_path).decode()
    assert "listen_addresses = '127.0.0.9,::1'" in conf
    assert "shared_buffers = 256MB" in conf
    assert "ssl = on" in conf


def test_address_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="evil"):
        settings.postgresql_conf(spec(listen_addresses=("evil' ",)), tmp_path)


def test_host_rules_have_no_line_without_tls():
    lines = [
        line.split()
        for line in settings.pg_hba_conf().decode().splitlines()
        if line and not line.startswith("#")
    ]
    assert {line[0] for line in lines} == {"local", "hostssl"}


def test_socket_path_the_kernel_would_cut_is_refused(tmp_path):
    with pytest.raises(InvalidRequestError, match="shorter"):
        check_socket(settings.socket_path(tmp_path / ("x" * 100), 5432))
