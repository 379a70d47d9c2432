"""`breakglass`: a short identity for an emergency, by the consent of two operators.

requester  request -> <dir>/key.pem, <dir>/claim.pb      the key never leaves
operators  approve -> <file>.pb                          each with an identity of its own
requester  issue   -> <dir> is an identity
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError

from pki.cli import times
from pki.cli.connection import Issuer
from pki.cli.documents import span_of, time_of
from pki.cli.exits import CommandError, Exit
from pki.cli.grammar import Reach, Verbs
from pki.cli.invocation import Invocation
from pki.cli.plans import Plan, is_agreed
from pki.cli.verbs import bundles, services
from pki.requests import load_key, new_request
from trove_grpc.gen.issuer.v1 import breakglass_service_pb2 as pb
from trove_grpc.tls import IdentityDirectory, KeyMaterial, write_atomically

_HOUR = dt.timedelta(hours=1)


def register(verbs: Verbs) -> None:
    group = verbs.group("breakglass", "a short identity for an emergency")
    request = group.verb(
        "request", _request, "make a key and a claim to be approved", reach=Reach.NOTHING
    )
    request.add_argument("--incident", required=True, metavar="ID", help="inc-7, for example")
    request.add_argument("--reason", required=True)
    request.add_argument(
        "--ttl", type=times.parse_span, default=_HOUR, metavar="SPAN", help="at most 1h"
    )
    request.add_argument("--directory", type=Path, required=True, metavar="DIR")
    approve = group.verb(
        "approve", _approve, "sign a claim with an operator's key", reach=Reach.NOTHING
    )
    approve.add_argument("--claim", type=Path, required=True, metavar="FILE")
    approve.add_argument(
        "--identity", type=Path, required=True, metavar="DIR", help="the approver's"
    )
    approve.add_argument("--out", type=Path, required=True, metavar="FILE")
    issue = group.verb("issue", _issue, "turn an approved claim into an identity")
    issue.add_argument("--directory", type=Path, required=True, metavar="DIR")
    issue.add_argument(
        "--approval", type=Path, action="append", required=True, metavar="FILE", help="two of them"
    )
    end = group.verb("end", _end, "the emergency is over: its certificates are refused")
    end.add_argument("incident", metavar="ID")


def _request(invocation: Invocation) -> Exit:
    options = invocation.options
    key, csr = new_request()
    claim = pb.BreakglassClaim(incident=options.incident, csr_der=csr, reason=options.reason)
    claim.lifetime.FromTimedelta(options.ttl)
    claim.create_time.FromDatetime(invocation.now)
    options.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (options.directory / "key.pem").exists():
        raise CommandError(
            Exit.REFUSED, f"{options.directory} holds a claim already; choose another directory"
        )
    write_atomically(options.directory / "key.pem", key, mode=0o600)
    data = claim.SerializeToString(deterministic=True)
    write_atomically(options.directory / "claim.pb", data, mode=0o644)
    invocation.console.show([_claim_row(claim, options.directory / "claim.pb")])
    return Exit.OK


def _approve(invocation: Invocation) -> Exit:
    options = invocation.options
    data = options.claim.read_bytes()
    claim = _parse_claim(data, options.claim)
    row = _claim_row(claim, options.claim)
    plan = Plan(
        f"approve a break-glass identity for {claim.incident}",
        claim.incident,
        [f"{key.replace('_', ' ')}: {row[key]}" for key in ("reason", "create_time", "lifetime")],
    )
    if not is_agreed(invocation, plan):
        return Exit.OK
    material = IdentityDirectory(options.identity).load()
    signature = load_key(material.key_pem).sign(data, ec.ECDSA(hashes.SHA256()))
    approval = pb.BreakglassApproval(chain_pem=material.chain_pem, signature=signature)
    write_atomically(options.out, approval.SerializeToString(), mode=0o644)
    invocation.console.show([{"incident": claim.incident, "file": str(options.out)}])
    return Exit.OK


def _issue(invocation: Invocation) -> Exit:
    options = invocation.options
    file = options.directory / "claim.pb"
    data = file.read_bytes()
    claim = _parse_claim(data, file)
    plan = Plan(
        f"issue a break-glass identity for {claim.incident}",
        claim.incident,
        ["it may do what operators may; an alarm stands while it lives"],
    )
    if not is_agreed(invocation, plan):
        return Exit.OK
    request = pb.IssueBreakglassRequest(
        claim=data, approvals=[_parse_approval(each) for each in options.approval]
    )

    async def work(issuer: Issuer) -> tuple[Any, Any]:
        answer = await issuer.call(issuer.breakglass.IssueBreakglass, request)
        return answer, (await bundles.fetch(issuer)).bundle

    answer, bundle = invocation.ask(work)
    identity = IdentityDirectory(options.directory)
    key = (options.directory / "key.pem").read_bytes()
    identity.install(KeyMaterial(key_pem=key, chain_pem=answer.chain_pem), bundle)
    services.show_identity(invocation, identity)
    return Exit.OK


def _end(invocation: Invocation) -> Exit:
    incident = invocation.options.incident
    plan = Plan(
        f"end the break-glass identity of {incident}",
        incident,
        ["its certificates are refused at once"],
    )
    if not is_agreed(invocation, plan):
        return Exit.OK
    answer = invocation.ask(
        lambda issuer: issuer.call(
            issuer.breakglass.EndBreakglass, pb.EndBreakglassRequest(incident=incident)
        )
    )
    ended = answer.ended_certificates
    invocation.console.show([{"incident": incident, "ended_certificates": ended}])
    return Exit.OK if ended else Exit.NOTHING_TO_DO


def _parse_claim(data: bytes, file: Path) -> pb.BreakglassClaim:
    try:
        claim = pb.BreakglassClaim.FromString(data)
    except DecodeError as error:
        raise CommandError(Exit.ERROR, f"{file} is no break-glass claim") from error
    if not claim.incident:
        raise CommandError(Exit.ERROR, f"{file} is no break-glass claim")
    return claim


def _parse_approval(file: Path) -> pb.BreakglassApproval:
    try:
        return pb.BreakglassApproval.FromString(file.read_bytes())
    except DecodeError as error:
        raise CommandError(Exit.ERROR, f"{file} is no approval") from error


def _claim_row(claim: pb.BreakglassClaim, file: Path) -> dict[str, Any]:
    return {
        "incident": claim.incident,
        "reason": claim.reason,
        "lifetime": span_of(claim, "lifetime"),
        "create_time": time_of(claim, "create_time"),
        "file": str(file),
    }
