"""Sealed secrets open for their own operation, with their own key, and for nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conductor.sealing import Sealer, load_sealer
from trove_grpc.errors import UnavailableError


def test_secret_opens_for_its_own_operation() -> None:
    sealer = Sealer(os.urandom(32))
    sealed = sealer.seal(b"canary", record_id="one")
    assert b"canary" not in sealed
    assert sealer.open(sealed, record_id="one") == b"canary"


def test_sealing_twice_gives_different_bytes() -> None:
    sealer = Sealer(os.urandom(32))
    assert sealer.seal(b"a", record_id="one") != sealer.seal(b"a", record_id="one")


def test_secret_moved_to_another_operation_does_not_open() -> None:
    sealer = Sealer(os.urandom(32))
    sealed = sealer.seal(b"canary", record_id="one")
    with pytest.raises(UnavailableError, match="sealed with another key"):
        sealer.open(sealed, record_id="two")


@pytest.mark.parametrize("sealed", [b"", b"short", b"x" * 64])
def test_damaged_secret_does_not_open(sealed: bytes) -> None:
    with pytest.raises(UnavailableError):
        Sealer(os.urandom(32)).open(sealed, record_id="one")


def test_key_is_made_private_once_and_then_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "sealing.key"
    sealed = load_sealer(path).seal(b"canary", record_id="one")
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_sealer(path).open(sealed, record_id="one") == b"canary"


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    load_sealer(path)
    path.chmod(0o640)
    with pytest.raises(UnavailableError, match="chmod 600"):
        load_sealer(path)


def test_key_of_a_wrong_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(UnavailableError, match="32 bytes"):
        load_sealer(path)


def test_key_behind_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    load_sealer(tmp_path / "real.key")
    (tmp_path / "link.key").symlink_to(tmp_path / "real.key")
    with pytest.raises(UnavailableError, match="cannot read"):
        load_sealer(tmp_path / "link.key")
