"""An engine's certificate file: renewed, its roots refreshed, on a full disk, after a kill."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from guestagent.engines import EngineCertificate
from guestagent.engines.certificate import ensure_certificate, note_use
from guestagent.engines.tools import Tools
from guestagent.system import DirectSystem
from tests.fakes.certificates import TestAuthority
from tests.fakes.engine import FakeDatabaseAuthority
from trove_grpc.errors import ConflictError, InvalidRequestError, UnavailableError
from trove_grpc.gen.common.v1 import trust_pb2

ROOT_KIND = trust_pb2.AUTHORITY_KIND_DATABASE_ROOT


class Authority(FakeDatabaseAuthority):
    """Counts, and refuses keys that it is told to."""

    def __init__(self) -> None:
        super().__init__(TestAuthority(), ["127.0.0.1"])
        self.asked = 0
        self.refuses_keys = 0

    async def issue(self, csr_der: bytes) -> EngineCertificate:
        self.asked += 1
        if self.refuses_keys:
            self.refuses_keys -= 1
            raise InvalidRequestError("certified before", reason="CSR_KEY_REUSED")
        return await super().issue(csr_der)


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def tools() -> Tools:
    return Tools(DirectSystem())


@pytest.fixture
def ended_pid() -> int:
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


@pytest.fixture
def small_disk(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


async def test_roots_follow_the_bundle_while_the_leaf_stays(
    tools: Tools, tmp_path: Path, authority: Authority
) -> None:
    assert await ensure_certificate(tools, tmp_path, authority)
    await note_use(tools, tmp_path)
    leaf = (tmp_path / "server.pem").read_bytes()
    authority.authority.rotate(ROOT_KIND)
    assert not await ensure_certificate(tools, tmp_path, authority)
    assert (tmp_path / "server.pem").read_bytes() == leaf
    assert (tmp_path / "root.crt").read_bytes() == authority.roots()
    assert authority.roots().count(b"BEGIN CERTIFICATE") == 2
    assert authority.asked == 1


async def test_chain_of_three_is_stored_as_it_was_given(
    tools: Tools, tmp_path: Path, authority: Authority
) -> None:
    authority.authority.rotate(ROOT_KIND)
    await ensure_certificate(tools, tmp_path, authority)
    assert (tmp_path / "server.pem").read_bytes().count(b"BEGIN CERTIFICATE") == 3


async def test_spent_key_is_replaced_by_another(
    tools: Tools, tmp_path: Path, authority: Authority
) -> None:
    authority.refuses_keys = 1
    with pytest.raises(UnavailableError, match="spent"):
        await ensure_certificate(tools, tmp_path, authority)
    assert await ensure_certificate(tools, tmp_path, authority)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
async def test_full_disk_keeps_the_certificate_and_nobody_is_asked_until_there_is_room(
    tools: Tools, authority: Authority, small_disk: Path
) -> None:
    await ensure_certificate(tools, small_disk, authority)
    await note_use(tools, small_disk)
    before = (small_disk / "server.pem").read_bytes()
    authority.supersedes = True
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(1024 * 1024))
    for _ in range(3):
        with pytest.raises(ConflictError, match="see the guest's disk"):
            await ensure_certificate(tools, small_disk, authority)
    assert authority.asked == 1
    assert (small_disk / "server.pem").read_bytes() == before
    ballast.unlink()
    assert await ensure_certificate(tools, small_disk, authority)
    await note_use(tools, small_disk)
    assert {path.name for path in small_disk.iterdir()} == {"root.crt", "server.pem"}


async def test_draft_of_a_killed_writer_goes_with_the_next_write(
    tools: Tools, tmp_path: Path, authority: Authority, ended_pid: int
) -> None:
    (tmp_path / f".server.pem.{ended_pid}.tmp").write_bytes(b"half")
    await ensure_certificate(tools, tmp_path, authority)
    await note_use(tools, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"root.crt", "server.pem"}
