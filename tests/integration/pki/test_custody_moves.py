"""Keys move between custodies: killed anywhere, repeated, refused before anything is lost.

Here on files and memory; tests/openstack does it with a real Barbican.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from pki.custody import Custody, CustodyError, FileCustody
from pki.issuer import bootstrap, custody
from pki.issuer.config import Config
from pki.requests import new_key
from pki.store import Store, audit
from tests.fakes.custody import MemoryCustody
from tests.integration.pki.conftest import NOW, make_config
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError

ALL = ["database-g1", "database-root-g1", "guest-g1", "operator-g1", "root-g1", "service-g1"]


class Issuer:
    """Six authorities whose keys lie in files, and a second custody in memory."""

    def __init__(self, root: Path) -> None:
        self.config: Config = make_config(root)
        self.files = FileCustody(self.config.custody_directory, self.config.passphrase_file)
        self.files.prepare()
        self.memory = MemoryCustody()
        self.store = Store(self.config.database_url)
        self.store.migrate()
        self.store.run_now(lambda s: bootstrap.initialise(s, self.files, self.config, NOW))
        self.store.run_now(lambda s: bootstrap.keep_certificates(s, self.files))

    def move(self, source: Custody, target: Custody) -> dict[str, str]:
        return {each["key"]: each["result"] for each in custody.move(self.store, source, target)}

    def verified(self, of: Custody) -> dict[str, str]:
        return {each["key"]: each["result"] for each in custody.check(self.store, of)}


@pytest.fixture
def issuer(private_directory: Path) -> Iterator[Issuer]:
    issuer = Issuer(private_directory)
    yield issuer
    issuer.store.close()


def test_every_key_moves_there_and_back(issuer: Issuer) -> None:
    before = {name: issuer.files.load(name).private_numbers() for name in ALL}
    assert issuer.move(issuer.files, issuer.memory) == dict.fromkeys(ALL, "copied")
    assert issuer.verified(issuer.memory) == issuer.verified(issuer.files)
    assert custody.remove(issuer.store, issuer.files, issuer.memory)
    assert issuer.files.names() == []
    issuer.store.run_now(lambda s: bootstrap.load(s, issuer.memory))

    assert issuer.move(issuer.memory, issuer.files) == dict.fromkeys(ALL, "copied")
    assert issuer.verified(issuer.files) == dict.fromkeys(ALL, "OK")
    assert {name: issuer.files.load(name).private_numbers() for name in ALL} == before
    assert issuer.store.run_now(audit.first_bad_sequence) is None


def test_second_move_finds_everything_there(issuer: Issuer) -> None:
    issuer.move(issuer.files, issuer.memory)
    assert issuer.move(issuer.files, issuer.memory) == dict.fromkeys(ALL, "present")
    custody.remove(issuer.store, issuer.files, issuer.memory)
    assert issuer.move(issuer.files, issuer.memory) == dict.fromkeys(ALL, "present")


class KilledError(Exception):
    """As by a signal: nothing after it runs."""


class Mortal(MemoryCustody):
    """Dies before its n-th change, whatever that is."""

    def __init__(self) -> None:
        super().__init__()
        self.changes_left = 0

    def store(self, *arguments: Any) -> None:
        self._change(super().store, *arguments)

    def store_certificate(self, *arguments: Any) -> None:
        self._change(super().store_certificate, *arguments)

    def delete(self, *arguments: Any) -> None:
        self._change(super().delete, *arguments)

    def _change(self, verb: Callable[..., None], *arguments: Any) -> None:
        if not self.changes_left:
            raise KilledError
        self.changes_left -= 1
        verb(*arguments)


def test_move_killed_before_each_change_goes_on(issuer: Issuer) -> None:
    for changes in range(2 * len(ALL)):
        target = Mortal()
        target.changes_left = changes
        with pytest.raises(KilledError):
            issuer.move(issuer.files, target)
        assert issuer.verified(issuer.files) == dict.fromkeys(ALL, "OK")
        target.changes_left = 1000
        issuer.move(issuer.files, target)
        assert issuer.verified(target) == dict.fromkeys(ALL, "OK")


def test_removal_killed_before_each_change_goes_on(issuer: Issuer) -> None:
    for changes in range(len(ALL)):
        old = Mortal()
        old.changes_left = 1000
        issuer.move(issuer.files, old)
        old.changes_left = changes
        with pytest.raises(KilledError):
            custody.remove(issuer.store, old, issuer.files)
        assert len(old.names()) == len(ALL) - changes
        old.changes_left = 1000
        custody.remove(issuer.store, old, issuer.files)
        assert old.names() == []


def test_other_key_at_the_target_stops_the_move_and_stays(issuer: Issuer) -> None:
    other = new_key()
    issuer.memory.store("guest-g1", other)
    with pytest.raises(ConflictError, match="guest-g1"):
        issuer.move(issuer.files, issuer.memory)
    assert issuer.memory.load("guest-g1") is other
    assert issuer.verified(issuer.files) == dict.fromkeys(ALL, "OK")


def test_key_that_is_not_its_certificates_is_not_copied(issuer: Issuer) -> None:
    issuer.move(issuer.files, issuer.memory)
    issuer.memory.keys["guest-g1"] = new_key()
    target = MemoryCustody()
    with pytest.raises(CustodyError) as refused:
        issuer.move(issuer.memory, target)
    assert refused.value.reason == "CUSTODY_OTHER_KEY"
    assert not target.exists("guest-g1")
    assert issuer.verified(issuer.memory)["guest-g1"] == "CUSTODY_OTHER_KEY"


def test_key_the_database_does_not_know_yet_moves_too(issuer: Issuer) -> None:
    """A rotation was killed between its key and its row."""
    issuer.files.store("guest-g2", new_key())
    assert issuer.move(issuer.files, issuer.memory)["guest-g2"] == "copied"
    assert issuer.verified(issuer.memory)["guest-g2"] == "OK"


def test_key_that_is_nowhere_is_an_error(issuer: Issuer) -> None:
    issuer.files.delete("guest-g1")
    with pytest.raises(NotFoundError) as refused:
        issuer.move(issuer.files, issuer.memory)
    assert refused.value.reason == "KEY_MISSING"
    assert issuer.verified(issuer.files)["guest-g1"] == "KEY_MISSING"


def test_nothing_is_removed_while_one_key_is_not_in_the_custody_in_use(issuer: Issuer) -> None:
    issuer.move(issuer.files, issuer.memory)
    issuer.memory.delete("service-g1")
    with pytest.raises(NotFoundError):
        custody.remove(issuer.store, issuer.files, issuer.memory)
    issuer.memory.store("service-g1", new_key())
    with pytest.raises(CustodyError):
        custody.remove(issuer.store, issuer.files, issuer.memory)
    assert issuer.files.names() == ALL


def test_verify_finds_a_certificate_that_is_missing_or_another(issuer: Issuer) -> None:
    issuer.move(issuer.files, issuer.memory)
    del issuer.memory.certificates["guest-g1"]
    issuer.memory.certificates["root-g1"] = b"another"
    found = issuer.verified(issuer.memory)
    assert (found["guest-g1"], found["root-g1"]) == (
        "CERTIFICATE_MISSING",
        "CUSTODY_OTHER_CERTIFICATE",
    )


def test_custody_in_use_is_not_cleared(issuer: Issuer) -> None:
    with pytest.raises(ConflictError) as refused:
        custody.clear(issuer.config, of="files")
    assert refused.value.reason == "CUSTODY_IN_USE"
    assert issuer.files.names() == ALL


def test_status_says_what_is_wrong_and_does_not_raise(issuer: Issuer) -> None:
    (row,) = custody.status(issuer.config)
    assert (row["custody"], row["in_use"], row["state"], row["keys"]) == ("files", True, "OK", 6)
    issuer.config.passphrase_file.chmod(0o644)
    (row,) = custody.status(issuer.config)
    assert row["state"] == "CUSTODY"
    assert "chmod 0600" in row["detail"]


def test_failures_are_counted_by_kind_and_answers_are_not(issuer: Issuer) -> None:
    opened = custody.open_custody(issuer.config)

    def counted(op: str, kind: str) -> float:
        labels = {"backend": "files", "op": op, "kind": kind}
        return REGISTRY.get_sample_value("trove_pki_custody_errors_total", labels) or 0

    before, missing = counted("load", "custody"), counted("load", "key_missing")
    with pytest.raises(NotFoundError):
        opened.load("guest-g9")
    issuer.config.passphrase_file.chmod(0o644)
    with pytest.raises(CustodyError):
        opened.load("guest-g1")
    assert counted("load", "custody") == before + 1
    assert counted("load", "key_missing") == missing


def test_verify_reads_what_the_settings_name(issuer: Issuer) -> None:
    assert {each["result"] for each in custody.verify(issuer.config)} == {"OK"}


def test_custody_the_settings_do_not_describe_is_refused(issuer: Issuer) -> None:
    with pytest.raises(InvalidRequestError, match=r"\[barbican\]"):
        custody.migrate(issuer.config, to="barbican")
    with pytest.raises(InvalidRequestError, match="take files or barbican"):
        custody.open_custody(issuer.config, "vault")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"custody": "vault"}, "must be files or barbican"),
        ({"custody": "barbican"}, r"needs a table \[barbican\]"),
    ],
)
def test_settings_that_name_no_custody_are_refused(
    issuer: Issuer, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        dataclasses.replace(issuer.config, **changes)
