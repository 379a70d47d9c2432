"""Break-glass: two different operators, one hour, loud, and over when it is over."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pki import enrolment
from pki.issuer import inventory
from pki.issuer.breakglass_service import BreakglassServicer
from pki.requests import csr_der, key_pem, load_key, new_key
from pki.store import denials
from tests.integration.pki.conftest import Desk, RunningIssuer
from trove_grpc import context
from trove_grpc.client import call, open_local_channel
from trove_grpc.errors import (
    InvalidRequestError,
    PermissionDeniedError,
    TroveError,
    UnauthenticatedError,
)
from trove_grpc.gen.issuer.v1 import breakglass_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import breakglass_service_pb2_grpc as rpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as issuer_rpc
from trove_grpc.identity import LOCAL, Role, identify
from trove_grpc.tls import IdentityDirectory, KeyMaterial

HOUR = dt.timedelta(hours=1)


def make_claim(
    lifetime: dt.timedelta = HOUR,
    age: dt.timedelta = dt.timedelta(0),
    key: ec.EllipticCurvePrivateKey | None = None,
    now: dt.datetime | None = None,
) -> bytes:
    claim = pb.BreakglassClaim(incident="inc-7", csr_der=csr_der(key or new_key()), reason="fire")
    claim.lifetime.FromTimedelta(lifetime)
    claim.create_time.FromDatetime((now or dt.datetime.now(dt.UTC)) - age)
    return claim.SerializeToString(deterministic=True)


async def approve(issuer: RunningIssuer, name: str, claim: bytes) -> pb.BreakglassApproval:
    directory = IdentityDirectory(issuer.root / name)
    if not directory.exists():
        await enrolment.issue_operator(issuer.config.operator_socket, name, directory, None)
    return sign(directory.load(), claim)


def sign(material: KeyMaterial, claim: bytes) -> pb.BreakglassApproval:
    signature = load_key(material.key_pem).sign(claim, ec.ECDSA(hashes.SHA256()))
    return pb.BreakglassApproval(chain_pem=material.chain_pem, signature=signature)


async def ask(issuer: RunningIssuer, method: str, request: Any) -> Any:
    async with open_local_channel(issuer.config.operator_socket) as channel:
        return await call(getattr(rpc.BreakglassServiceStub(channel), method), request, timeout=20)


async def test_two_operators_make_an_identity_that_ends(issuer: RunningIssuer) -> None:
    claim = make_claim()
    approvals = [await approve(issuer, name, claim) for name in ("alice", "bob")]
    request = pb.IssueBreakglassRequest(claim=claim, approvals=approvals)
    answer = await ask(issuer, "IssueBreakglass", request)
    assert await ask(issuer, "IssueBreakglass", request) == answer
    named = identify(answer.chain_pem, IdentityDirectory(issuer.root / "alice").bundle())
    assert (named.role, named.name) == (Role.BREAKGLASS, "inc-7")
    end = pb.EndBreakglassRequest(incident="inc-7")
    assert (await ask(issuer, "EndBreakglass", end)).ended_certificates == 1
    assert (await ask(issuer, "EndBreakglass", end)).ended_certificates == 0
    with pytest.raises(InvalidRequestError):
        await ask(issuer, "IssueBreakglass", request)


async def test_one_operator_is_not_enough_however_often(issuer: RunningIssuer) -> None:
    claim = make_claim()
    approvals = [await approve(issuer, "alice", claim) for _ in range(2)]
    with pytest.raises(PermissionDeniedError, match="two different ones must"):
        await ask(
            issuer, "IssueBreakglass", pb.IssueBreakglassRequest(claim=claim, approvals=approvals)
        )


async def test_an_approval_of_another_claim_or_by_a_service_counts_not(
    issuer: RunningIssuer,
) -> None:
    claim = make_claim()
    alice = await approve(issuer, "alice", claim)
    service = sign((await issuer.identity(Role.GATEWAY)).load(), claim)
    for other in (await approve(issuer, "bob", make_claim()), service):
        request = pb.IssueBreakglassRequest(claim=claim, approvals=[alice, other])
        with pytest.raises(PermissionDeniedError):
            await ask(issuer, "IssueBreakglass", request)


@pytest.mark.parametrize("claim", [make_claim(HOUR * 2), make_claim(age=HOUR * 2), b"\xff"])
async def test_a_claim_out_of_bounds_is_refused(issuer: RunningIssuer, claim: bytes) -> None:
    with pytest.raises(TroveError):
        await ask(issuer, "IssueBreakglass", pb.IssueBreakglassRequest(claim=claim))


async def test_an_identity_that_was_ended_calls_nobody(issuer: RunningIssuer) -> None:
    key = new_key()
    claim = make_claim(key=key)
    approvals = [await approve(issuer, name, claim) for name in ("alice", "bob")]
    request = pb.IssueBreakglassRequest(claim=claim, approvals=approvals)
    answer = await ask(issuer, "IssueBreakglass", request)
    identity = IdentityDirectory(issuer.root / "breakglass")
    material = KeyMaterial(key_pem=key_pem(key), chain_pem=answer.chain_pem)
    identity.install(material, IdentityDirectory(issuer.root / "alice").bundle())
    stub = issuer.channel(identity).stub(issuer_rpc.IssuerServiceStub)
    await call(stub.ListTokens, issuer_pb.ListTokensRequest(), timeout=10)
    await ask(issuer, "EndBreakglass", pb.EndBreakglassRequest(incident="inc-7"))
    with pytest.raises(UnauthenticatedError) as caught:
        await call_until_refused(stub)
    assert caught.value.reason == "CERTIFICATE_DENIED"


async def call_until_refused(stub: issuer_rpc.IssuerServiceStub) -> None:
    """The denial acts once the issuer has read it."""
    async with asyncio.timeout(10):
        while True:
            await call(stub.ListTokens, issuer_pb.ListTokensRequest(), timeout=10)


# Who approves, at a chosen time.


def operator_of(desk: Desk, name: str, lifetime: dt.timedelta = HOUR) -> KeyMaterial:
    key = new_key()
    certificate = desk.store.run_now(
        lambda s: desk.services.issue_operator(
            s,
            name=name,
            lifetime=lifetime,
            public_key=key.public_key(),
            actor="test",
            now=desk.now,
        )
    )
    return KeyMaterial(key_pem=key_pem(key), chain_pem=certificate.chain_pem)


async def issue(desk: Desk, *approvers: KeyMaterial) -> pb.IssueBreakglassResponse:
    service = BreakglassServicer(desk.store, desk.signers, desk.config, now=lambda: desk.now)
    claim = make_claim(now=desk.now)
    approvals = [sign(each, claim) for each in approvers]
    with context.calling(LOCAL):
        answer: pb.IssueBreakglassResponse = await service.IssueBreakglass(
            pb.IssueBreakglassRequest(claim=claim, approvals=approvals), None
        )
    return answer


async def test_a_denied_operator_consents_to_nothing(desk: Desk) -> None:
    alice, bob = operator_of(desk, "alice"), operator_of(desk, "bob")
    desk.store.run_now(
        lambda s: inventory.create_denial(
            s, denials.SERIAL, bob.facts.serial, "left", actor="test", now=desk.now
        )
    )
    with pytest.raises(UnauthenticatedError) as caught:
        await issue(desk, alice, bob)
    assert caught.value.reason == "CERTIFICATE_DENIED"
    assert (await issue(desk, alice, operator_of(desk, "carol"))).chain_pem


async def test_an_expired_operator_consents_to_nothing(desk: Desk) -> None:
    alice, bob = operator_of(desk, "alice", HOUR * 3), operator_of(desk, "bob", HOUR)
    desk.now += HOUR * 2
    with pytest.raises(UnauthenticatedError) as caught:
        await issue(desk, alice, bob)
    assert caught.value.reason == "CERTIFICATE_EXPIRED"


async def test_two_certificates_of_one_operator_are_one_consent(desk: Desk) -> None:
    with pytest.raises(PermissionDeniedError, match="two different ones must"):
        await issue(desk, operator_of(desk, "alice"), operator_of(desk, "alice"))
