"""Rotations by their RPCs, behind the issuer's real listeners and with real TLS handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography import x509

from pki import renewal
from pki.requests import new_request
from tests.integration.pki.conftest import RunningIssuer, StartIssuer
from tests.integration.pki.test_issuer_process import TIMEOUT, Guest, until
from trove_grpc.client import call, open_local_channel
from trove_grpc.errors import ConflictError, InvalidRequestError, PermissionDeniedError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import authority_service_pb2_grpc as rpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as issuer_rpc
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory, KeyMaterial

SHORT = dt.timedelta(milliseconds=50)
QUICK = {
    "rotation_poll": SHORT,
    "rotation_soak": SHORT,
    "rotation_spread": SHORT,
    "rotation_bundle_poll": SHORT,
    "rotation_lease": 20 * SHORT,
}
ROOT = trust_pb2.AUTHORITY_KIND_ROOT
GUEST = trust_pb2.AUTHORITY_KIND_GUEST
SERVICE = trust_pb2.AUTHORITY_KIND_SERVICE


class Operator:
    """Whoever may enter the socket's directory."""

    def __init__(self, stub: rpc.AuthorityServiceStub) -> None:
        self.stub = stub

    async def start(
        self, kind: Any, authority: Any = 0, *, is_automatic: bool = True
    ) -> pb.Rotation:
        answer = await call(
            self.stub.StartRotation,
            pb.StartRotationRequest(
                request_id=str(uuid.uuid4()),
                kind=kind,
                authority=authority,
                is_automatic=is_automatic,
                reason="test",
            ),
            timeout=TIMEOUT,
        )
        rotation: pb.Rotation = answer.rotation
        return rotation

    async def get(self, rotation: pb.Rotation) -> pb.Rotation:
        answer = await call(
            self.stub.GetRotation,
            pb.GetRotationRequest(rotation_id=rotation.rotation_id),
            timeout=TIMEOUT,
        )
        present: pb.Rotation = answer.rotation
        return present

    async def wait_for(self, rotation: pb.Rotation, phase: Any) -> pb.Rotation:
        async def is_there() -> bool:
            return (await self.get(rotation)).phase == phase

        await until(is_there)
        return await self.get(rotation)


@contextlib.asynccontextmanager
async def operator_of(issuer: RunningIssuer) -> AsyncIterator[Operator]:
    async with open_local_channel(issuer.config.operator_socket) as channel:
        yield Operator(rpc.AuthorityServiceStub(channel))


async def follow(issuer: RunningIssuer, identity: IdentityDirectory) -> None:
    """One round of what a service does: tell what it holds, take the bundle, renew when asked."""
    channel = issuer.channel(identity)
    answer = await call(
        channel.stub(issuer_rpc.IssuerServiceStub).GetTrustBundle,
        issuer_pb.GetTrustBundleRequest(held_version=identity.bundle().version),
        timeout=TIMEOUT,
    )
    identity.store_bundle(answer.bundle)
    is_called = answer.HasField("renew_before")
    if is_called and renewal.issue_time(identity.load().leaf) < answer.renew_before.ToDatetime(
        dt.UTC
    ):
        key, csr = new_request()
        renewed = await call(
            channel.stub(issuer_rpc.IssuerServiceStub).RenewService,
            issuer_pb.RenewServiceRequest(csr_der=csr),
            timeout=TIMEOUT,
        )
        identity.install(KeyMaterial(key_pem=key, chain_pem=renewed.chain_pem), renewed.bundle)
    await channel.close()


@contextlib.asynccontextmanager
async def following(issuer: RunningIssuer, identity: IdentityDirectory) -> AsyncIterator[None]:
    stop = asyncio.Event()

    async def run() -> None:
        while not stop.is_set():
            await follow(issuer, identity)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.1)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run())
        try:
            yield
        finally:
            stop.set()


async def list_denials(issuer: RunningIssuer, identity: IdentityDirectory) -> None:
    channel = issuer.channel(identity)
    await call(
        channel.stub(issuer_rpc.IssuerServiceStub).ListDenials,
        issuer_pb.ListDenialsRequest(),
        timeout=TIMEOUT,
    )
    await channel.close()


async def test_root_rotation_is_verified_by_a_peer_that_knows_the_old_root_alone(
    start_issuer: StartIssuer,
) -> None:
    issuer = await start_issuer(**QUICK)
    gateway = await issuer.identity(Role.GATEWAY)
    asleep = await issuer.identity(Role.CONDUCTOR, "asleep")  # has the old root, for ever
    async with operator_of(issuer) as operator, following(issuer, gateway):
        rotation = await operator.start(pb.ROTATION_KIND_ROOT, ROOT)
        await operator.wait_for(rotation, pb.ROTATION_PHASE_REISSUING)
        shown = IdentityDirectory(issuer.config.identity)

        async def has_renewed() -> bool:
            chain = x509.load_pem_x509_certificates(shown.load().chain_pem)
            return len(chain) == 3 and chain[1].issuer == chain[2].subject

        await until(has_renewed)

        async def has_everybody_renewed() -> bool:
            return (await operator.get(rotation)).progress.services_reissued == 2

        await until(has_everybody_renewed)
        leaf, intermediate, cross = x509.load_pem_x509_certificates(shown.load().chain_pem)
        assert "service g2" in leaf.issuer.rfc4514_string()
        assert "root g2" in intermediate.issuer.rfc4514_string()
        assert "root g1" in cross.issuer.rfc4514_string()

        roots = [each for each in asleep.bundle().authorities if each.kind == ROOT]
        assert [each.generation for each in roots] == [1]
        await list_denials(issuer, asleep)
        both = [each for each in gateway.bundle().authorities if each.kind == ROOT]
        assert [each.generation for each in both] == [1, 2]
        await list_denials(issuer, gateway)
        # The sleeper's certificate is what the old generation still lives for.
        present = await operator.get(rotation)
        assert present.progress.old_leaves == 1
        assert present.phase == pb.ROTATION_PHASE_REISSUING


async def test_service_rotation_ends_when_the_issuer_and_its_peers_have_renewed(
    start_issuer: StartIssuer,
) -> None:
    issuer = await start_issuer(**QUICK)
    gateway = await issuer.identity(Role.GATEWAY)
    before = gateway.load().facts.serial
    async with operator_of(issuer) as operator, following(issuer, gateway):
        rotation = await operator.start(pb.ROTATION_KIND_INTERMEDIATE, SERVICE)
        await operator.wait_for(rotation, pb.ROTATION_PHASE_RETIRED)
        await list_denials(issuer, gateway)
        listed = await call(operator.stub.ListServices, pb.ListServicesRequest(), timeout=TIMEOUT)
        assert {each.generation for each in listed.services} == {2}
        assert {each.name.rpartition("/service/")[2] for each in listed.services} == {
            "gateway/localhost",
            "issuer/localhost",
        }
    assert gateway.load().facts.serial != before


async def test_operator_advances_pauses_and_rolls_back_and_all_of_it_is_audited(
    start_issuer: StartIssuer,
) -> None:
    issuer = await start_issuer(**QUICK)
    async with operator_of(issuer) as operator:
        plan = await call(
            operator.stub.PlanRotation,
            pb.PlanRotationRequest(kind=pb.ROTATION_KIND_INTERMEDIATE, authority=GUEST),
            timeout=TIMEOUT,
        )
        assert len(plan.steps) == 9
        assert not plan.obstacles

        rotation = await operator.start(pb.ROTATION_KIND_INTERMEDIATE, GUEST, is_automatic=False)
        ready = await operator.wait_for(rotation, pb.ROTATION_PHASE_READY)
        assert "consent" in ready.next
        with pytest.raises(ConflictError) as refused:
            await operator.start(pb.ROTATION_KIND_ROOT, ROOT)
        assert rotation.rotation_id in refused.value.message
        with pytest.raises(ConflictError):
            await call(
                operator.stub.AdvanceRotation,
                pb.AdvanceRotationRequest(
                    rotation_id=rotation.rotation_id, target=pb.ROTATION_PHASE_RETIRED
                ),
                timeout=TIMEOUT,
            )
        for _ in range(2):  # asked twice is asked once
            await call(
                operator.stub.AdvanceRotation,
                pb.AdvanceRotationRequest(
                    rotation_id=rotation.rotation_id, target=pb.ROTATION_PHASE_SWITCHED
                ),
                timeout=TIMEOUT,
            )
            await operator.wait_for(rotation, pb.ROTATION_PHASE_DRAINED)
        with pytest.raises(ConflictError) as late:
            await call(
                operator.stub.RollBackRotation,
                pb.RollBackRotationRequest(rotation_id=rotation.rotation_id, reason="late"),
                timeout=TIMEOUT,
            )
        assert late.value.reason == "TOO_LATE_TO_ROLL_BACK"
        await call(
            operator.stub.AdvanceRotation,
            pb.AdvanceRotationRequest(
                rotation_id=rotation.rotation_id, target=pb.ROTATION_PHASE_RETIRED
            ),
            timeout=TIMEOUT,
        )
        await operator.wait_for(rotation, pb.ROTATION_PHASE_RETIRED)

        second = await operator.start(pb.ROTATION_KIND_INTERMEDIATE, GUEST, is_automatic=False)
        await operator.wait_for(second, pb.ROTATION_PHASE_READY)
        back = await call(
            operator.stub.RollBackRotation,
            pb.RollBackRotationRequest(rotation_id=second.rotation_id, reason="no"),
            timeout=TIMEOUT,
        )
        assert back.rotation.phase == pb.ROTATION_PHASE_ABORTED
        listed = await call(
            operator.stub.ListRotations, pb.ListRotationsRequest(), timeout=TIMEOUT
        )
        assert [each.rotation_id for each in listed.rotations] == [
            second.rotation_id,
            rotation.rotation_id,
        ]


async def test_tainted_generation_is_refused_and_its_successor_signs(
    start_issuer: StartIssuer,
) -> None:
    issuer = await start_issuer(**QUICK)
    guest = Guest(issuer)
    await guest.enrol(await guest.registered())
    async with operator_of(issuer) as operator:
        taint = pb.TaintAuthorityRequest(kind=GUEST, generation=1, reason="stolen")
        with pytest.raises(ConflictError) as refused:
            await call(operator.stub.TaintAuthority, taint, timeout=TIMEOUT)
        assert refused.value.reason == "NO_SUCCESSOR"

        rotation = await operator.start(pb.ROTATION_KIND_INTERMEDIATE, GUEST, is_automatic=False)
        await operator.wait_for(rotation, pb.ROTATION_PHASE_READY)
        tainted = await call(operator.stub.TaintAuthority, taint, timeout=TIMEOUT)
        assert tainted.authority.certificate.state == trust_pb2.AUTHORITY_STATE_TAINTED
        (left,) = tainted.stranded
        assert (left.instance_id, left.is_recoverable) == (guest.instance_id, False)
        assert "token" in left.command

        listed = await call(
            operator.stub.ListAuthorities, pb.ListAuthoritiesRequest(), timeout=TIMEOUT
        )
        guests = [each for each in listed.authorities if each.certificate.kind == GUEST]
        assert [each.certificate.state for each in guests] == [
            trust_pb2.AUTHORITY_STATE_TAINTED,
            trust_pb2.AUTHORITY_STATE_ACTIVE,
        ]
        assert guests[0].live_leaves == 0
        crl = await call(
            operator.stub.ExportCrl,
            pb.ExportCrlRequest(kind=GUEST, generation=1),
            timeout=TIMEOUT,
        )
        signed = x509.load_der_x509_crl(crl.crl_der)
        issuer_key = x509.load_pem_x509_certificate(
            guests[0].certificate.certificate_pem
        ).public_key()
        assert signed.is_signature_valid(issuer_key)  # type: ignore[arg-type]
        assert len(list(signed)) == crl.revoked == 1

        newcomer = Guest(issuer)
        enrolled = await newcomer.enrol(await newcomer.registered())
        chain = x509.load_pem_x509_certificates(enrolled.chain_pem)
        assert "guest g2" in chain[0].issuer.rfc4514_string()


async def test_malformed_requests_are_refused(start_issuer: StartIssuer) -> None:
    issuer = await start_issuer(**QUICK)
    async with operator_of(issuer) as operator:
        stub = operator.stub
        for method, request in (
            (stub.StartRotation, pb.StartRotationRequest(kind=pb.ROTATION_KIND_LEAF)),
            (stub.StartRotation, pb.StartRotationRequest(request_id="r")),
            (stub.PlanRotation, pb.PlanRotationRequest(kind=99)),  # type: ignore[arg-type]
            (stub.GetRotation, pb.GetRotationRequest(rotation_id="rot-1' OR 1=1")),
            (stub.ListRotations, pb.ListRotationsRequest(page_token="x")),
            (stub.AdvanceRotation, pb.AdvanceRotationRequest(rotation_id="rot-0001")),
            (stub.TaintAuthority, pb.TaintAuthorityRequest(kind=GUEST, reason="r")),
            (stub.ExportCrl, pb.ExportCrlRequest()),
        ):
            with pytest.raises(InvalidRequestError):
                await call(method, request, timeout=TIMEOUT)


@pytest.mark.parametrize("role", [Role.API, Role.GATEWAY, Role.TASKMANAGER, Role.CONDUCTOR])
async def test_service_may_not_rotate(issuer: RunningIssuer, role: Role) -> None:
    channel = issuer.channel(await issuer.identity(role))
    with pytest.raises(PermissionDeniedError):
        await call(
            channel.stub(rpc.AuthorityServiceStub).StartRotation,
            pb.StartRotationRequest(request_id="r", kind=pb.ROTATION_KIND_LEAF),
            timeout=TIMEOUT,
        )
