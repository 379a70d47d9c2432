"""Break-glass: two different operators, one hour, loud, and over when it is over."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pki import enrolment
from pki.requests import csr_der, load_key, new_key
from tests.integration.pki.conftest import RunningIssuer
from trove_grpc.client import call, open_local_channel
from trove_grpc.errors import InvalidRequestError, PermissionDeniedError, TroveError
from trove_grpc.gen.issuer.v1 import breakglass_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import breakglass_service_pb2_grpc as rpc
from trove_grpc.identity import Role, identify
from trove_grpc.tls import IdentityDirectory, KeyMaterial

HOUR = dt.timedelta(hours=1)


def make_claim(lifetime: dt.timedelta = HOUR, age: dt.timedelta = dt.timedelta(0)) -> bytes:
    claim = pb.BreakglassClaim(incident="inc-7", csr_der=csr_der(new_key()), reason="fire")
    claim.lifetime.FromTimedelta(lifetime)
    claim.create_time.FromDatetime(dt.datetime.now(dt.UTC) - age)
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
