from __future__ import annotations

import hashlib

import pytest

from guestagent.engines.redis import acl
from trove_grpc.gen.common.v1 import engine_pb2

HASH = "#" + hashlib.sha256(b"correct horse").hexdigest()


@pytest.mark.parametrize(
    "name", ["ada", "größe🛒", "a\"b'c\\d", "+@all", "~*", ">password", "x{}"]
)
def test_name_is_one_argument_of_plain_characters(name):
    quoted = acl.quote(name)
    inner = quoted[1:-1]
    assert quoted[0] == quoted[-1] == '"'
    assert set(inner) <= set("0123456789abcdefghijklmnopqrstuvwxyz\\")
    assert inner.encode().decode("unicode_escape").encode("latin-1").decode() == name


def test_user_is_made_from_nothing_and_may_manage_nothing():
    command = acl.set_user(engine_pb2.UserSpec(name="ada", verifier=HASH))
    words = command.split()
    assert words[:5] == ["ACL", "SETUSER", '"ada"', "reset", "on"]
    assert words[5] == HASH
    assert words.index("+@all") < words.index("-@admin") < words.index("-@dangerous")
    assert not any(word.startswith((">", "nopass")) for word in words)


def test_file_keeps_the_users_it_had_and_lets_nobody_in_by_default():
    first = acl.file_with_administrator(b"", b"secret")
    assert first.split(b"\n")[0].startswith(b"user default reset off ")
    assert b"secret" not in first
    assert hashlib.sha256(b"secret").hexdigest().encode() in first
    saved = b"user default on nopass ~* +@all\nuser ada on #00\nuser os_admin on #11 +@all\n"
    second = acl.file_with_administrator(saved, b"secret")
    assert second == first + b"user ada on #00\n"
    assert acl.file_with_administrator(second, b"secret") == second
