"""Services of another region at a real issuer: one method and health, until the trust ends."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2

from pki.store import Store, audit, services
from tests.fakes.certificates import TestAuthority
from tests.fakes.forge import CLIENT, SERVER, Forge, uri
from tests.integration.pki.conftest import RunningIssuer, StartIssuer
from trove_grpc.authorization import CALLERS, FEDERATED
from trove_grpc.client import call, open_local_channel
from trove_grpc.errors import ConflictError, InvalidRequestError, TroveError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import federation_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import federation_service_pb2_grpc as rpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb
from trove_grpc.identity import SERVICE_ROLES, Role
from trove_grpc.tls import IdentityDirectory, KeyMaterial, channel_credentials, expected_server

REGION = "region-b.trove"
ROOT = trust_pb2.AUTHORITY_KIND_ROOT
BUNDLE_METHOD = "/trove.issuer.v1.IssuerService/GetTrustBundle"
HEALTH_METHOD = "/grpc.health.v1.Health/Check"
AGO = dt.timedelta(hours=1)


@pytest.fixture(scope="module")
def region() -> TestAuthority:
    return TestAuthority(REGION)


@pytest.fixture
async def issuer(start_issuer: StartIssuer) -> RunningIssuer:
    running: RunningIssuer = await start_issuer(rotation_poll=dt.timedelta(milliseconds=50))
    return running


def federation_of(region: TestAuthority, sequence: int = 1, **changes: Any) -> pb.Federation:
    bundle = {
        "trust_domain": region.trust_domain,
        "sequence": sequence,
        "root_pems": [region.signers[ROOT].pem],
        **changes,
    }
    return pb.Federation(bundle=trust_pb2.FederatedBundle(**bundle))


async def ask(issuer: RunningIssuer, method: str, request: Any) -> Any:
    async with open_local_channel(issuer.config.operator_socket) as channel:
        return await call(getattr(rpc.FederationServiceStub(channel), method), request, timeout=20)


async def put(issuer: RunningIssuer, federation: pb.Federation) -> pb.Federation:
    request = pb.PutFederatedBundleRequest(federation=federation)
    kept: pb.Federation = (await ask(issuer, "PutFederatedBundle", request)).federation
    return kept


async def remove(issuer: RunningIssuer) -> bool:
    request = pb.RemoveFederatedBundleRequest(trust_domain=REGION)
    return bool((await ask(issuer, "RemoveFederatedBundle", request)).was_removed)


class Peer:
    """Somebody of another region, who verifies the issuer and shows what it has."""

    def __init__(self, issuer: RunningIssuer, material: KeyMaterial) -> None:
        bundle = IdentityDirectory(issuer.config.identity).bundle()
        self._channel = aio.secure_channel(
            f"127.0.0.1:{issuer.port}",
            channel_credentials(bundle, material),
            options=[expected_server(bundle, Role.ISSUER), ("grpc.use_local_subchannel_pool", 1)],
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def call(self, method: str, request: bytes = b"") -> tuple[grpc.StatusCode, bytes]:
        try:
            return grpc.StatusCode.OK, await self._channel.unary_unary(method)(request, timeout=10)
        except aio.AioRpcError as error:
            return error.code(), b""


async def until(peer_of: Any, wanted: grpc.StatusCode) -> None:
    """New connections get this answer: the issuer has taken its own new bundle."""
    async with asyncio.timeout(20):
        while True:
            async with peer_of() as peer:
                if (await peer.call(HEALTH_METHOD))[0] is wanted:
                    return
            await asyncio.sleep(0.05)


async def test_services_of_a_region_call_what_their_table_says_until_the_trust_ends(
    issuer: RunningIssuer, region: TestAuthority, tmp_path: Path
) -> None:
    materials = {
        role: region.identity_for_service(role, tmp_path / role).load() for role in SERVICE_ROLES
    }

    def gateway() -> Peer:
        return Peer(issuer, materials[Role.GATEWAY])

    async with gateway() as stranger:
        assert (await stranger.call(HEALTH_METHOD))[0] is grpc.StatusCode.UNAVAILABLE
    await put(issuer, federation_of(region))
    await until(gateway, grpc.StatusCode.OK)
    for material in materials.values():
        async with Peer(issuer, material) as peer:
            for method in CALLERS:
                code, answer = await peer.call(method)
                if method not in FEDERATED:
                    assert code is grpc.StatusCode.PERMISSION_DENIED, method
                    continue
                assert code is grpc.StatusCode.OK, method
                if method == BUNDLE_METHOD:
                    shown = issuer_pb.GetTrustBundleResponse.FromString(answer).bundle
                    assert shown.trust_domain == "local.trove"
                    assert not shown.federated
                else:
                    health = health_pb2.HealthCheckResponse.FromString(answer)
                    assert health.status == health_pb2.HealthCheckResponse.SERVING
    store = Store(issuer.config.database_url)
    seen = store.run_now(lambda s: [each.name for each in services.seen_since(s, _past())])
    store.close()
    assert [name for name in seen if REGION in name] == []
    async with gateway() as open_one:
        assert (await open_one.call(HEALTH_METHOD))[0] is grpc.StatusCode.OK
        assert await remove(issuer)
        assert not await remove(issuer)
        await until(gateway, grpc.StatusCode.UNAVAILABLE)
        assert (await open_one.call(BUNDLE_METHOD))[0] is grpc.StatusCode.UNAUTHENTICATED


def _past() -> dt.datetime:
    return dt.datetime.now(dt.UTC) - AGO


async def test_nobody_else_of_a_region_is_known_nor_who_poses_as_one_of_ours(
    issuer: RunningIssuer, region: TestAuthority, tmp_path: Path
) -> None:
    await put(issuer, federation_of(region))
    known = region.identity_for_service(Role.API, tmp_path / "api").load()
    await until(lambda: Peer(issuer, known), grpc.StatusCode.OK)
    forge = Forge(region.signers, region.bundle())
    guest = region.identity_for_guest("t", str(uuid.uuid4()), tmp_path / "guest").load()
    operator = region.identity_for_operator("ada", tmp_path / "ada").load()
    ours = forge.guest("t", str(uuid.uuid4()))
    posing = [
        forge.sign(
            ours.with_(
                names=(uri("spiffe://local.trove/service/gateway/h"),),
                purposes=(SERVER, CLIENT),
                signed_by=trust_pb2.AUTHORITY_KIND_SERVICE,
            )
        ),
        forge.sign(
            ours.with_(
                names=(uri("spiffe://local.trove/operator/ada"),),
                purposes=(CLIENT,),
                signed_by=trust_pb2.AUTHORITY_KIND_OPERATOR,
            )
        ),
    ]
    for material in (guest, operator, *posing):
        async with Peer(issuer, material) as peer:
            for method in FEDERATED:
                assert (await peer.call(method))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_bundle_never_goes_back_and_each_change_is_a_version_and_a_record(
    issuer: RunningIssuer, region: TestAuthority
) -> None:
    first = await put(issuer, federation_of(region, 7))
    again = await put(issuer, federation_of(region, 7))
    assert first.bundle.root_pems == again.bundle.root_pems
    with pytest.raises(ConflictError, match="older"):
        await put(issuer, federation_of(region, 6))
    other = TestAuthority(REGION).signers[ROOT].pem
    with pytest.raises(ConflictError):
        await put(issuer, federation_of(region, 7, root_pems=[other]))
    await put(issuer, federation_of(region, 8, root_pems=[other]))
    (listed,) = (
        await ask(issuer, "ListFederatedBundles", pb.ListFederatedBundlesRequest())
    ).federations
    assert (listed.bundle.sequence, list(listed.bundle.root_pems)) == (8, [other])
    await remove(issuer)
    store = Store(issuer.config.database_url)
    async with asyncio.timeout(20):  # refusals are written a moment later
        while True:
            rows = store.run_now(lambda s: audit.after(s, 0, 1000))
            if any("STALE_BUNDLE" in row.detail for row in rows):
                break
            await asyncio.sleep(0.05)
    store.close()
    actions = [row.action for row in rows if row.subject == REGION and row.action != "refuse-call"]
    assert actions == ["put-federated-bundle"] * 2 + ["remove-federated-bundle"]


async def test_roots_that_are_none_and_regions_that_are_ours_are_refused(
    issuer: RunningIssuer, region: TestAuthority
) -> None:
    service = region.signers[trust_pb2.AUTHORITY_KIND_SERVICE].pem
    root = region.signers[ROOT].pem
    for changes in (
        {"trust_domain": "local.trove"},
        {"trust_domain": "Region\n"},
        {"sequence": 0},
        {"root_pems": []},
        {"root_pems": [root] * 5},
        {"root_pems": [service]},
        {"root_pems": [b"\xff"]},
        {"root_pems": [root * 9]},
    ):
        with pytest.raises(InvalidRequestError):
            await put(issuer, federation_of(region, **{"sequence": 1, **changes}))
    identity = IdentityDirectory(issuer.config.identity)
    own = [each.certificate_pem for each in identity.bundle().authorities if each.kind == ROOT]
    with pytest.raises(TroveError, match="our own"):
        await put(issuer, federation_of(region, root_pems=own))
