"""A service follows a rotation: it says what it holds, renews early, and its channels follow."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pki.renewal import ServiceRenewer
from tests.fakes.certificates import TestAuthority
from tests.fakes.fake_issuer import FakeIssuer
from tests.fakes.guest_gateway import eventually
from trove_grpc import leaves
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory

SERVICE = trust_pb2.AUTHORITY_KIND_SERVICE


class Running:
    """One service's renewer beside an issuer."""

    def __init__(self, issuer: FakeIssuer, identity: IdentityDirectory) -> None:
        self.issuer, self.identity = issuer, identity
        self.channel = PeerChannel([issuer.address], identity=identity, server_role=Role.ISSUER)
        self.renewer = ServiceRenewer(
            identity, self.channel, bundle_interval=0.2, first_retry=0.1, spread=0.1
        )

    @property
    def signer(self) -> bytes:
        return leaves.certificates(self.identity.load().chain_pem)[1]

    def rotate(self) -> None:
        """Another generation of the service authority signs; the issuer itself knows it first."""
        self.issuer.authority.rotate(SERVICE)
        self.issuer.identity.store_bundle(self.issuer.authority.bundle(2))
        self.issuer.bundle_version = 2


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    authority = TestAuthority()
    issuer = FakeIssuer(
        authority, authority.identity_for_service(Role.ISSUER, tmp_path / "issuer")
    )
    await issuer.start()
    running = Running(issuer, authority.identity_for_service(Role.CONDUCTOR, tmp_path / "service"))
    stop = asyncio.Event()
    renewing = asyncio.create_task(running.renewer.run(stop))
    try:
        yield running
    finally:
        stop.set()
        await renewing
        await running.channel.close()
        await issuer.stop()


async def test_service_says_which_bundle_it_holds_as_soon_as_it_holds_it(service: Running) -> None:
    await eventually(lambda: service.issuer.held_versions)
    service.issuer.bundle_version = 7
    await eventually(lambda: service.issuer.held_versions[-1] == 7)
    assert set(service.issuer.held_versions) == {1, 7}
    assert service.issuer.renewals == 0


async def test_service_renews_when_another_generation_signs_and_only_once(
    service: Running,
) -> None:
    before = service.signer
    service.rotate()
    await eventually(lambda: service.signer != before)
    polls = len(service.issuer.held_versions)
    await eventually(lambda: len(service.issuer.held_versions) > polls + 3)
    assert service.issuer.renewals == 1


async def test_service_renews_a_certificate_that_is_older_than_the_issuer_wants(
    service: Running,
) -> None:
    before = service.identity.load().facts.serial
    await eventually(lambda: service.issuer.held_versions)
    # The fake's certificates begin two minutes back, as the issuer's do.
    service.issuer.renew_before = dt.datetime.now(dt.UTC)
    await eventually(lambda: service.identity.load().facts.serial != before)


async def test_wish_that_no_certificate_fulfils_is_not_followed_without_pause(
    service: Running,
) -> None:
    service.issuer.renew_before = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    await eventually(lambda: service.issuer.renewals >= 2)
    assert len(service.issuer.held_versions) > service.issuer.renewals


async def test_issuer_may_ask_for_quicker_looks_but_not_for_slower_ones(
    service: Running,
) -> None:
    service.issuer.poll_after = dt.timedelta(days=1)
    polls = len(service.issuer.held_versions)
    await eventually(lambda: len(service.issuer.held_versions) > polls + 3, within=5)
    service.renewer._bundle_interval = 60.0
    service.issuer.poll_after = dt.timedelta(milliseconds=1)
    # A second at least between two looks, and much less than sixty.
    polls = len(service.issuer.held_versions)
    await eventually(lambda: len(service.issuer.held_versions) > polls + 2, within=10)


async def test_stub_from_before_a_renewal_still_works_after_the_channel_was_replaced(
    service: Running,
) -> None:
    old = service.channel.stub(rpc.IssuerServiceStub)
    service.rotate()
    await eventually(lambda: service.issuer.renewals)
    await eventually(lambda: service.issuer.held_versions[-1] == 2)
    new = service.channel.stub(rpc.IssuerServiceStub)
    for stub in (old, new, old):
        await call(stub.GetTrustBundle, pb.GetTrustBundleRequest(), timeout=10)
