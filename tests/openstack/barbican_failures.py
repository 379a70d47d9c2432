"""Every way Barbican can fail, against the real one: its own error, and nothing made or replaced.

What the real one cannot be made to answer, a proxy before it answers in its place.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pki.custody import CustodyError, envelope
from pki.custody.barbican import BarbicanCustody
from pki.requests import new_key
from tests.openstack.conftest import Place, write_credential
from tests.openstack.faulty_barbican import Answer, FaultyBarbican, Held, Lost, Verdict
from tests.openstack.harness import daemons
from tests.openstack.harness.identity import ApplicationCredential
from trove_grpc.errors import (
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    TroveError,
    UnauthenticatedError,
    UnavailableError,
)

NAME = "guest-g1"


@pytest.fixture
def key(place: Place) -> ec.EllipticCurvePrivateKey:
    """A key that is in Barbican; whatever the test does, it is there unchanged afterwards."""
    key = new_key()
    place.custody().store(NAME, key)
    return key


@pytest.fixture
def unchanged(place: Place, key: ec.EllipticCurvePrivateKey) -> Iterator[None]:
    before = place.secrets()
    yield
    assert place.secrets() == before
    assert place.custody().load(NAME).private_numbers() == key.private_numbers()


def every_verb(custody: BarbicanCustody) -> dict[str, Callable[[], object]]:
    return {
        "load": lambda: custody.load(NAME),
        "exists": lambda: custody.exists(NAME),
        "names": custody.names,
        "store": lambda: custody.store(NAME, new_key()),
        "probe": custody.probe,
    }


VERBS = ["load", "exists", "names", "store", "probe"]


def refusal(verb: Callable[[], object], kind: type[TroveError], reason: str) -> TroveError:
    """The error, which is of this kind and tells no secret."""
    with pytest.raises(kind) as refused:
        verb()
    assert refused.value.reason == reason, refused.value.message
    assert type(refused.value) is kind
    return refused.value


# Not reached.


@pytest.mark.parametrize("verb", VERBS)
def test_barbican_down(place: Place, key: ec.EllipticCurvePrivateKey, verb: str) -> None:
    before = place.secrets()
    signed_in = place.custody()
    signed_in.probe()
    place.cloud.barbican.stop()
    try:
        for custody in (place.custody(), signed_in):
            refusal(every_verb(custody)[verb], UnavailableError, "CUSTODY_UNREACHABLE")
    finally:
        place.cloud.restart_barbican()
    assert place.secrets() == before
    assert signed_in.load(NAME).private_numbers() == key.private_numbers()


@pytest.mark.usefixtures("unchanged")
def test_keystone_down(place: Place) -> None:
    with daemons.bind() as nobody:
        custody = place.custody(auth_url=f"http://127.0.0.1:{nobody.getsockname()[1]}/v3")
        refusal(custody.probe, UnavailableError, "CUSTODY_UNREACHABLE")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("verb", VERBS)
def test_barbican_that_does_not_answer_in_time(
    place: Place, faulty: FaultyBarbican, verb: str
) -> None:
    custody = place.custody(region=faulty.region, timeout=dt.timedelta(seconds=1))
    custody.probe()
    faulty.rule = lambda _method, _path: Held()
    refusal(every_verb(custody)[verb], DeadlineError, "CUSTODY_TIMEOUT")


@pytest.mark.usefixtures("unchanged")
def test_region_without_barbican(place: Place) -> None:
    custody = place.custody(region="nowhere")
    error = refusal(custody.probe, NotFoundError, "CUSTODY_NO_ENDPOINT")
    assert "nowhere" in error.message


def test_plaintext_to_another_host_is_refused(place: Place) -> None:
    with pytest.raises(InvalidRequestError, match="https://"):
        dataclasses.replace(place.settings, auth_url="http://keystone.example:5000/v3")


@pytest.mark.usefixtures("unchanged")
def test_catalogue_that_names_a_plaintext_barbican_is_refused(place: Place) -> None:
    place.cloud.identity.ensure_endpoint(
        "key-manager", "http://barbican.example:9311", region="plaintext"
    )
    with pytest.raises(InvalidRequestError, match="https://"):
        place.custody(region="plaintext").probe()


# Refused.


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("verb", VERBS)
def test_credential_that_keystone_does_not_take(place: Place, verb: str) -> None:
    secret = "not-the-secret-of-it"
    known = json.loads(place.settings.credential_file.read_text())
    wrong = write_credential(
        place.root / "wrong.json", ApplicationCredential(known["id"], secret, "")
    )
    error = refusal(
        every_verb(place.custody(credential_file=wrong))[verb],
        UnauthenticatedError,
        "CUSTODY_UNAUTHENTICATED",
    )
    assert str(wrong) in error.message
    assert secret not in error.message


@pytest.mark.usefixtures("unchanged")
def test_credential_is_read_again_after_a_refusal(place: Place) -> None:
    known = place.settings.credential_file.read_text()
    file = write_credential(place.root / "late.json", ApplicationCredential("nobody", "no", ""))
    custody = place.custody(credential_file=file)
    refusal(custody.probe, UnauthenticatedError, "CUSTODY_UNAUTHENTICATED")
    file.write_text(known)
    custody.probe()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("verb", VERBS)
def test_user_without_the_role(place: Place, verb: str) -> None:
    outsider = place.custody(credential_file=place.credential("outsider", "reader"))
    refusal(every_verb(outsider)[verb], PermissionDeniedError, "CUSTODY_FORBIDDEN")


def test_user_without_the_role_stores_nothing(place: Place) -> None:
    outsider = place.custody(credential_file=place.credential("outsider", "reader"))
    refusal(lambda: outsider.store(NAME, new_key()), PermissionDeniedError, "CUSTODY_FORBIDDEN")
    assert place.secrets() == {}


@pytest.mark.usefixtures("key")
def test_key_that_is_removed_while_it_is_read(place: Place, faulty: FaultyBarbican) -> None:
    (ref,) = place.secrets()

    def removed_after_the_list(_method: str, path: str) -> Verdict:
        if path.endswith("/payload"):
            place.client().secrets.delete(ref, force=True)
        return None

    faulty.rule = removed_after_the_list
    custody = place.custody(region=faulty.region)
    refusal(lambda: custody.load(NAME), NotFoundError, "CUSTODY_GONE")
    assert place.secrets() == {}
    refusal(lambda: place.custody().load(NAME), NotFoundError, "KEY_MISSING")


def test_payload_above_barbicans_limit(place: Place) -> None:
    """20,000 bytes in base64; a request above 25,000 is cut there, which is another answer."""
    custody = place.custody()
    refusal(
        lambda: custody.store_certificate("root-g1", b"x" * 16_000),
        CustodyError,
        "CUSTODY_TOO_LARGE",
    )
    assert place.secrets() == {}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "expected",
    [
        (401, UnauthenticatedError, "CUSTODY_UNAUTHENTICATED"),
        (403, PermissionDeniedError, "CUSTODY_FORBIDDEN"),
        (404, NotFoundError, "CUSTODY_GONE"),
        (409, ConflictError, "CUSTODY_CONFLICT"),
        (413, CustodyError, "CUSTODY_TOO_LARGE"),
        (418, CustodyError, "CUSTODY_REFUSED"),
        (500, UnavailableError, "CUSTODY_FAILED"),
        (503, UnavailableError, "CUSTODY_FAILED"),
    ],
)
def test_answer_of_barbican(
    place: Place,
    faulty: FaultyBarbican,
    verb: str,
    expected: tuple[int, type[TroveError], str],
) -> None:
    status, kind, reason = expected
    custody = place.custody(region=faulty.region)
    custody.probe()
    faulty.rule = lambda _method, _path: Answer(status)
    refusal(every_verb(custody)[verb], kind, reason)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("status", [500, 503])
def test_barbican_that_fails_from_the_first_moment(
    place: Place, faulty: FaultyBarbican, status: int
) -> None:
    faulty.rule = lambda _method, _path: Answer(status)
    custody = place.custody(region=faulty.region)
    refusal(custody.probe, UnavailableError, "CUSTODY_FAILED")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("verb", VERBS)
def test_something_else_behind_the_address(
    place: Place, faulty: FaultyBarbican, verb: str
) -> None:
    custody = place.custody(region=faulty.region)
    custody.probe()
    faulty.rule = lambda _method, _path: Answer(200, b"<html>welcome", "text/html")
    refusal(every_verb(custody)[verb], CustodyError, "CUSTODY_NOT_UNDERSTOOD")


# Reached, and what lies there is not what we stored.


def envelope_of(key: ec.EllipticCurvePrivateKey, place: Place, name: str = NAME) -> bytes:
    return envelope.seal(key, place.path(name), envelope.read_kek(place.settings.kek_file))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (lambda _whole: None, "CUSTODY_NO_PAYLOAD"),
        (lambda whole: base64.b64encode(whole).decode(), "CUSTODY_FOREIGN"),
        (lambda _whole: b"-----BEGIN PRIVATE KEY-----", "CUSTODY_FOREIGN"),
        (lambda whole: whole[:20], "CUSTODY_DAMAGED"),
        (lambda whole: whole[:-1], "CUSTODY_DAMAGED"),
        (lambda whole: whole[:100], "CUSTODY_DAMAGED"),
        (lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), "CUSTODY_DAMAGED"),
        (lambda whole: whole[:60] + bytes([whole[60] ^ 1]) + whole[61:], "CUSTODY_DAMAGED"),
        (lambda whole: whole + b"\0", "CUSTODY_DAMAGED"),
    ],
    ids=["no payload", "text", "foreign", "20 bytes", "cut", "100 bytes", "flip", "head", "long"],
)
def test_payload_that_is_no_envelope_of_ours(
    place: Place, payload: Callable[[bytes], bytes | str | None], reason: str
) -> None:
    key = new_key()
    place.put(NAME, payload(envelope_of(key, place)))
    before = place.secrets()
    custody = place.custody()
    assert custody.exists(NAME)
    for verb in (lambda: custody.load(NAME), lambda: custody.store(NAME, key)):
        refusal(verb, CustodyError, reason)
    assert place.secrets() == before


def test_envelope_of_another_name(place: Place) -> None:
    """Whoever may write to the project cannot pass an old generation off as a new one."""
    place.put(NAME, envelope_of(new_key(), place, "guest-g2"))
    refusal(lambda: place.custody().load(NAME), CustodyError, "CUSTODY_DAMAGED")


def test_envelope_under_another_kek(place: Place, key: ec.EllipticCurvePrivateKey) -> None:
    other = place.root / "other-kek"
    envelope.create_kek(other)
    custody = place.custody(kek_file=other)
    error = refusal(lambda: custody.load(NAME), CustodyError, "CUSTODY_OTHER_KEK")
    assert str(other) in error.message
    refusal(lambda: custody.store(NAME, key), CustodyError, "CUSTODY_OTHER_KEK")
    assert len(place.secrets()) == 1


def test_two_different_keys_of_one_name(place: Place, key: ec.EllipticCurvePrivateKey) -> None:
    place.put(NAME, envelope_of(new_key(), place))
    before = place.secrets()
    custody = place.custody()
    for verb in (lambda: custody.load(NAME), lambda: custody.store(NAME, key)):
        error = refusal(verb, CustodyError, "CUSTODY_AMBIGUOUS")
        assert all(ref.rpartition("/")[2] in error.message for ref in before)
    assert place.secrets() == before


@pytest.mark.usefixtures("unchanged")
def test_other_key_is_never_stored_over_one(place: Place) -> None:
    refusal(lambda: place.custody().store(NAME, new_key()), ConflictError, "CONFLICT")


# Cut short.


def test_key_whose_storing_was_not_confirmed_is_taken_up(
    place: Place, faulty: FaultyBarbican
) -> None:
    """Barbican stored it and the answer was lost: the same call again finishes the work."""
    key = new_key()

    def lost_answer(method: str, path: str) -> Verdict:
        return Lost() if method == "POST" and path.startswith("/v1/secrets") else None

    faulty.rule = lost_answer
    custody = place.custody(region=faulty.region)
    refusal(lambda: custody.store(NAME, key), UnavailableError, "CUSTODY_UNREACHABLE")
    (ref,) = place.secrets()
    client = place.client()
    assert client.acls.get(ref).read.project_access is True

    custody = place.custody()
    assert custody.exists(NAME)
    found = custody.load(NAME)
    assert found.private_numbers() == key.private_numbers()
    custody.store(NAME, found)
    assert list(place.secrets()) == [ref]
    assert client.acls.get(ref).read.project_access is False
    assert len(client.secrets.list_consumers(ref)) == 1


def test_two_processes_that_store_at_once_end_with_one_key(
    place: Place, faulty: FaultyBarbican
) -> None:
    """The later one finds the earlier one's secret and takes its own back."""
    key = new_key()

    def meanwhile(method: str, path: str) -> Verdict:
        if method == "POST" and path.startswith("/v1/secrets"):
            faulty.rule = lambda _method, _path: None
            place.custody().store(NAME, key)
        return None

    custody = place.custody(region=faulty.region)
    custody.probe()
    faulty.rule = meanwhile
    refusal(lambda: custody.store(NAME, new_key()), ConflictError, "CONFLICT")
    assert len(place.secrets()) == 1
    assert place.custody().load(NAME).private_numbers() == key.private_numbers()


# Files on this side.


@pytest.mark.parametrize("file", ["credential_file", "kek_file"])
@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_secret_file_that_others_can_read_is_refused(place: Place, file: str, mode: int) -> None:
    getattr(place.settings, file).chmod(mode)
    with pytest.raises(CustodyError, match=f"mode {mode:04o}.*chmod 0600"):
        place.custody().probe()


@pytest.mark.parametrize(
    ("file", "reason"),
    [("credential_file", "CREDENTIAL_MISSING"), ("kek_file", "KEK_MISSING")],
)
def test_secret_file_that_is_missing_is_named(place: Place, file: str, reason: str) -> None:
    path: Path = getattr(place.settings, file)
    path.unlink()
    error = refusal(place.custody().probe, NotFoundError, reason)
    assert str(path) in error.message


@pytest.mark.parametrize("file", ["credential_file", "kek_file"])
def test_content_of_a_broken_secret_file_is_not_repeated(place: Place, file: str) -> None:
    getattr(place.settings, file).write_text("cGFzc3dvcmQ=")
    with pytest.raises(CustodyError) as refused:
        place.custody().probe()
    assert "cGFzc3dvcmQ" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_no_log_at_any_level_has_a_secret(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = new_key()
    custody = place.custody()
    custody.store(NAME, key)
    custody.load(NAME)
    clear = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    secret = json.loads(place.settings.credential_file.read_text())["secret"]
    token = custody._client().client.get_token()
    scalar = f"{key.private_numbers().private_value:x}"
    kek = place.settings.kek_file.read_text().strip()
    assert len(caplog.text) > 1000
    for each in (secret, token, kek, scalar, base64.b64encode(clear).decode(), repr(clear)):
        assert each not in caplog.text
