"""When an engine's certificate is superseded, and when its turn comes."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import pytest

from guestagent.database_authority import BundledAuthority
from guestagent.engines import EngineCertificate
from guestagent.identity import GuestIdentity, Self
from pki.requests import new_request
from tests.fakes.certificates import TestAuthority
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.tls import IdentityDirectory

DATABASE = trust_pb2.AUTHORITY_KIND_DATABASE
SECOND = dt.timedelta(seconds=1)


class Guest:
    """An identity directory and what is asked of the control plane."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.authority = TestAuthority()
        me = Self(instance_id="i", boot_id="b", machine_id_hash="m", agent_version="1")
        self.identity = GuestIdentity(IdentityDirectory(root / "identity"), root / "token", me)
        self.woken = asyncio.Event()
        self.hears()
        self.chain = self.sign()

    def hears(self, version: int = 1) -> None:
        self.identity.directory.store_bundle(self.authority.bundle(version))

    def sign(self) -> bytes:
        return self.authority.engine_chain(new_request()[1], ip_addresses=["127.0.0.1"])

    def bundled(self, spread: dt.timedelta = 0 * SECOND) -> BundledAuthority:
        async def issue(_csr: bytes) -> EngineCertificate:
            return EngineCertificate(chain_pem=self.chain, root_pem=b"")

        return BundledAuthority(
            self.identity,
            issue,
            self.root / "state/engine-renewal.json",
            spread=spread,
            on_due=self.woken.set,
        )


@pytest.fixture
async def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


async def test_certificate_of_the_active_generation_stays(guest: Guest) -> None:
    assert not guest.bundled().is_superseded(guest.chain)


async def test_certificate_is_superseded_when_another_generation_is_active(guest: Guest) -> None:
    guest.authority.rotate(DATABASE)
    assert not guest.bundled().is_superseded(guest.chain)  # nobody has told us yet
    guest.hears(2)
    assert guest.bundled().is_superseded(guest.chain)
    assert not guest.bundled().is_superseded(guest.sign())


async def test_key_before_the_chain_is_passed_over(guest: Guest) -> None:
    guest.authority.rotate(DATABASE)
    guest.hears(2)
    assert guest.bundled().is_superseded(new_request()[0] + guest.chain)


async def test_its_turn_is_picked_once_and_survives_a_restart(guest: Guest) -> None:
    guest.authority.rotate(DATABASE)
    guest.hears(2)
    record = guest.root / "state/engine-renewal.json"
    seen = set()
    for _ in range(3):
        bundled = guest.bundled(spread=dt.timedelta(days=1))
        assert not bundled.is_superseded(guest.chain)
        assert not bundled.is_superseded(guest.chain)
        bundled.close()
        seen.add(record.read_bytes())
    assert len(seen) == 1


async def test_window_of_the_gateway_replaces_the_spread_and_wakes_in_time(guest: Guest) -> None:
    guest.authority.rotate(DATABASE)
    guest.hears(2)
    bundled = guest.bundled(spread=dt.timedelta(days=1))
    assert not bundled.is_superseded(guest.chain)
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(milliseconds=100)
    window = trust_pb2.RenewalWindow()
    window.start_time.FromDatetime(soon)
    window.end_time.FromDatetime(soon)
    bundled.note_window(window)
    guest.woken.clear()
    assert not bundled.is_superseded(guest.chain)
    async with asyncio.timeout(10):
        await guest.woken.wait()
    assert bundled.is_superseded(guest.chain)
    bundled.close()


async def test_window_that_is_over_does_not_bring_the_whole_fleet_at_once(guest: Guest) -> None:
    guest.authority.rotate(DATABASE)
    guest.hears(2)
    bundled = guest.bundled(spread=dt.timedelta(days=1))
    window = trust_pb2.RenewalWindow()
    window.start_time.FromDatetime(dt.datetime.now(dt.UTC) - 2 * SECOND)
    window.end_time.FromDatetime(dt.datetime.now(dt.UTC) - SECOND)
    bundled.note_window(window)
    assert not bundled.is_superseded(guest.chain)
    bundled.close()


async def test_new_certificate_of_the_old_generation_is_not_replaced_without_pause(
    guest: Guest,
) -> None:
    guest.authority.rotate(DATABASE)
    guest.hears(2)
    bundled = guest.bundled()
    assert bundled.is_superseded(guest.chain)
    await bundled.issue(b"")
    assert not bundled.is_superseded(guest.chain)
    guest.hears(3)
    assert bundled.is_superseded(guest.chain)


async def test_clients_get_the_old_root_and_the_new_one(guest: Guest) -> None:
    old = guest.bundled().roots()
    guest.authority.rotate(trust_pb2.AUTHORITY_KIND_DATABASE_ROOT)
    guest.hears(2)
    roots = guest.bundled().roots()
    assert old in roots
    assert roots.count(b"BEGIN CERTIFICATE") == 2
