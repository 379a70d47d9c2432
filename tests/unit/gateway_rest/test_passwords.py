from __future__ import annotations

import base64

import pytest
from scramp import core as scramp
from scramp.utils import saslprep

from gateway.rest import passwords

SALT = b"0123456789abcdef"


@pytest.mark.parametrize("password", ["secret", "pässwörd", "ⅨⅣ", "a\u00a0b", "x\u00ady", "שלום"])
def test_verifier_equals_that_of_another_implementation(password):
    salt, stored_key, server_key, count = scramp.ScramMechanism("SCRAM-SHA-256").make_auth_info(
        password, iteration_count=4096, salt=SALT
    )
    encoded = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    expected = f"SCRAM-SHA-256${count}:{encoded[0]}${encoded[1]}:{encoded[2]}"

    assert passwords.scram_sha_256_verifier(password, salt=SALT) == expected


@pytest.mark.parametrize(
    "password", ["secret", "Ⅸ", "a\u00a0b", "x\u00ady", "שלום", "\uff11\uff12"]
)
def test_allowed_password_is_prepared(password):
    assert passwords.prepare(password) == saslprep(password)


@pytest.mark.parametrize(
    "password",
    ["tab\there", "🦄", "\u00ad", "אa", "\ue000", "\ufffd", "\u2028"],
    ids=["control", "unassigned", "nothing left", "mixed directions", "private", "bad", "line"],
)
def test_forbidden_password_is_taken_as_it_is(password):
    assert passwords.prepare(password) == password


def test_each_verifier_has_a_salt_of_its_own():
    assert passwords.scram_sha_256_verifier("x") != passwords.scram_sha_256_verifier("x")


def test_redis_verifier_is_the_hash_of_the_password():
    assert passwords.redis_sha_256_verifier("correct horse") == (
        "#4104d36f8da2c254349f85836793ebe029e0c957063a34c91c2e9203187b5631"
    )
