"""Keys at rest: refused when anybody else could have read or replaced them, never replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pki.custody import Custody, CustodyError, FileCustody
from pki.custody.counted import CountedCustody
from pki.issuer import bootstrap
from pki.requests import new_key
from pki.store import Store
from tests.fakes.custody import MemoryCustody
from tests.fakes.custody_contract import CustodyContract
from tests.integration.pki.conftest import NOW, make_config


@pytest.fixture
def files(tmp_path: Path) -> FileCustody:
    custody = FileCustody(tmp_path / "custody", tmp_path / "secret" / "passphrase")
    custody.prepare()
    return custody


class TestFiles(CustodyContract):
    @pytest.fixture
    def custody(self, files: FileCustody) -> Custody:
        return files


class TestCounted(CustodyContract):
    @pytest.fixture
    def custody(self) -> Custody:
        return CountedCustody(MemoryCustody(), "memory")


class TestMemory(CustodyContract):
    @pytest.fixture
    def custody(self) -> Custody:
        return MemoryCustody()


def test_key_file_is_private_and_encrypted(files: FileCustody, tmp_path: Path) -> None:
    files.store("guest-g1", new_key())
    path = tmp_path / "custody" / "guest-g1.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in path.read_bytes()
    assert [each.name for each in path.parent.iterdir()] == ["guest-g1.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_key_that_others_can_open_is_refused(
    files: FileCustody, tmp_path: Path, mode: int
) -> None:
    files.store("guest-g1", new_key())
    (tmp_path / "custody" / "guest-g1.key").chmod(mode)
    with pytest.raises(CustodyError, match=f"mode {mode:04o}.*chmod 0600"):
        files.load("guest-g1")


def test_symbolic_link_to_a_key_is_refused(files: FileCustody, tmp_path: Path) -> None:
    files.store("guest-g1", new_key())
    path = tmp_path / "custody" / "guest-g1.key"
    path.rename(tmp_path / "custody" / "elsewhere")
    path.symlink_to("elsewhere")
    with pytest.raises(CustodyError, match="symbolic link"):
        files.load("guest-g1")


def test_pipe_in_place_of_a_key_is_refused_without_waiting(
    files: FileCustody, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "custody" / "guest-g1.key", 0o600)
    with pytest.raises(CustodyError, match="not a regular file"):
        files.load("guest-g1")


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_directory_that_others_can_enter_is_refused(
    files: FileCustody, tmp_path: Path, mode: int
) -> None:
    files.store("guest-g1", new_key())
    (tmp_path / "custody").chmod(mode)
    with pytest.raises(CustodyError, match="open to others"):
        files.load("guest-g1")


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_directory_in_a_loose_parent_is_refused(
    files: FileCustody, tmp_path: Path, mode: int
) -> None:
    files.store("guest-g1", new_key())
    tmp_path.chmod(mode)
    with pytest.raises(CustodyError, match="chmod go-w"):
        files.load("guest-g1")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("path", ["custody", "custody/guest-g1.key", "."])
def test_foreign_owner_is_refused(files: FileCustody, tmp_path: Path, path: str) -> None:
    files.store("guest-g1", new_key())
    os.chown(tmp_path / path, 65534, -1)
    with pytest.raises(CustodyError, match="belongs to uid 65534"):
        files.load("guest-g1")


def test_wrong_passphrase_is_named_as_a_cause(files: FileCustody, tmp_path: Path) -> None:
    files.store("guest-g1", new_key())
    (tmp_path / "secret" / "passphrase").write_text("another")
    with pytest.raises(CustodyError, match="passphrase") as refused:
        files.load("guest-g1")
    assert "another" not in str(refused.value)


def test_lost_passphrase_is_not_made_anew_while_keys_need_it(
    files: FileCustody, tmp_path: Path
) -> None:
    files.store("guest-g1", new_key())
    (tmp_path / "secret" / "passphrase").unlink()
    with pytest.raises(CustodyError, match="restore that file"):
        files.prepare()


def test_init_killed_after_any_key_ends_in_the_same_place(private_directory: Path) -> None:
    """A key without its row is taken up again: no key is made twice, none is lost."""
    config = make_config(private_directory)
    custody = MemoryCustody()
    store = Store(config.database_url)
    store.migrate()

    class KilledError(Exception):
        pass

    def one_key(session):
        made = len(custody.keys)

        def counted(name, key):
            if len(custody.keys) > made:
                raise KilledError
            MemoryCustody.store(custody, name, key)

        custody.store = counted
        bootstrap.initialise(session, custody, config, NOW)

    for _ in range(5):
        with pytest.raises(KilledError):
            store.run_now(one_key)
    first = {name: key.private_numbers() for name, key in custody.keys.items()}
    store.run_now(one_key)
    signers = store.run_now(lambda s: bootstrap.load(s, custody))
    assert len(custody.keys) == 6
    assert all(custody.keys[name].private_numbers() == first[name] for name in first)
    assert len(signers._keys) == 4
    store.close()


def test_certificates_are_kept_beside_their_keys(private_directory: Path) -> None:
    config = make_config(private_directory)
    custody = MemoryCustody()
    store = Store(config.database_url)
    store.migrate()
    rows = store.run_now(lambda s: bootstrap.initialise(s, custody, config, NOW))
    for _ in range(2):
        store.run_now(lambda s: bootstrap.keep_certificates(s, custody))
    assert custody.certificates == {row.key_name: row.certificate_pem for row in rows}
    store.close()


def test_key_of_another_backup_is_refused_at_start(private_directory: Path) -> None:
    config = make_config(private_directory)
    custody = MemoryCustody()
    store = Store(config.database_url)
    store.migrate()
    store.run_now(lambda s: bootstrap.initialise(s, custody, config, NOW))
    custody.keys["guest-g1"] = new_key()
    with pytest.raises(CustodyError, match="one backup"):
        store.run_now(lambda s: bootstrap.load(s, custody))
    store.close()
