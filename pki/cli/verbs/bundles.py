"""`bundle`: what peers trust."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from google.protobuf.message import DecodeError

from pki import profiles
from pki.cli import spiffe_bundles
from pki.cli.connection import Issuer
from pki.cli.console import Column, Row
from pki.cli.documents import certificate_facts, kind_name, state_name
from pki.cli.exits import CommandError, Exit
from pki.cli.grammar import Verbs
from pki.cli.invocation import Invocation
from pki.cli.verbs import agents, services
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb

_FORMATS = ("spiffe", "pem", "pb")


def register(verbs: Verbs) -> None:
    group = verbs.group("bundle", "what peers trust")
    show = group.verb("show", _show, "the bundle in force")
    show.add_argument("--authority", choices=sorted(profiles.KINDS_BY_NAME), default="")
    show.add_argument("--pem", action="store_true", help="certificates, for other programs")
    diff = group.verb("diff", _diff, "how a bundle in a file differs from the one in force")
    diff.add_argument(
        "file", type=Path, metavar="FILE", help="bundle.pb of an identity, or PEM certificates"
    )
    export = group.verb("export", _export, "write the bundle for others")
    export.add_argument("--format", choices=_FORMATS, default="spiffe")
    export.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    push = group.verb("push", _push, "let everybody take the bundle again, and say so")
    push.add_argument("--reason", required=True)


async def fetch(issuer: Issuer) -> pb.GetTrustBundleResponse:
    answer: pb.GetTrustBundleResponse = await issuer.call(
        issuer.issuer.GetTrustBundle, pb.GetTrustBundleRequest()
    )
    return answer


def _row(bundle: trust_pb2.TrustBundle, authority: trust_pb2.AuthorityCertificate) -> Row:
    return {
        "authority": kind_name(authority.kind),
        "generation": authority.generation,
        "state": state_name(authority.state),
        "expire_time": certificate_facts(authority.certificate_pem)["expire_time"],
        "is_cross_signed": bool(authority.cross_certificate_pem),
        "bundle_version": bundle.version,
        "trust_domain": bundle.trust_domain,
    }


def _show(invocation: Invocation) -> Exit:
    options = invocation.options
    bundle = invocation.ask(fetch).bundle
    wanted = [
        authority
        for authority in bundle.authorities
        if not options.authority or kind_name(authority.kind) == options.authority
    ]
    if options.pem:
        for authority in wanted:
            invocation.console.raw(authority.certificate_pem.decode("ascii"))
        return Exit.OK if wanted else Exit.NOTHING_TO_DO
    columns = [
        Column("AUTHORITY", "authority"),
        Column("GEN", "generation"),
        Column("STATE", "state"),
        Column("EXPIRES", "expire_time"),
        Column("BUNDLE", lambda row: f"v{row['bundle_version']}"),
        Column("TRUST DOMAIN", "trust_domain"),
    ]
    others = [f"federated: {each.trust_domain}" for each in bundle.federated]
    rows = [_row(bundle, authority) for authority in wanted]
    invocation.console.show(rows, columns, empty="nothing of that kind is trusted", after=others)
    return Exit.OK if wanted else Exit.NOTHING_TO_DO


def _diff(invocation: Invocation) -> Exit:
    bundle = invocation.ask(fetch).bundle
    held = _fingerprints(_pems_of(invocation.options.file))
    names = {
        next(iter(_fingerprints(authority.certificate_pem))): authority
        for authority in bundle.authorities
    }
    rows: list[Row] = [
        {
            "change": "missing",
            "authority": kind_name(each.kind),
            "generation": each.generation,
            "fingerprint_sha256": fingerprint,
        }
        for fingerprint, each in names.items()
        if fingerprint not in held
    ]
    rows += [
        {
            "change": "not in force",
            "authority": subject,
            "generation": None,
            "fingerprint_sha256": fingerprint,
        }
        for fingerprint, subject in held.items()
        if fingerprint not in names
    ]
    columns = [
        Column("CHANGE", "change"),
        Column("AUTHORITY", "authority"),
        Column("GEN", "generation"),
        Column("SHA-256", "fingerprint_sha256"),
    ]
    invocation.console.show(rows, columns, empty="no difference")
    return Exit.OK if rows else Exit.NOTHING_TO_DO


def _pems_of(file: Path) -> bytes:
    data = file.read_bytes()
    if b"-----BEGIN CERTIFICATE-----" in data:
        return data
    try:
        bundle = trust_pb2.TrustBundle.FromString(data)
    except DecodeError as error:
        raise CommandError(Exit.ERROR, f"{file} is neither a bundle nor PEM") from error
    return b"".join(each.certificate_pem for each in bundle.authorities)


def _fingerprints(pem: bytes) -> dict[str, str]:
    """SHA-256 of each certificate, with its subject."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise CommandError(Exit.ERROR, "the file holds no certificate") from error
    return {
        each.fingerprint(hashes.SHA256()).hex(): each.subject.rfc4514_string() for each in found
    }


def _export(invocation: Invocation) -> Exit:
    options = invocation.options
    bundle = invocation.ask(fetch).bundle
    data = _encoded(bundle, options.format)
    if options.out is None:
        if options.format == "pb":
            raise CommandError(Exit.USAGE, "the binary form needs --out FILE")
        invocation.console.raw(data.decode())
        return Exit.OK
    options.out.write_bytes(data)
    invocation.console.show([{"file": str(options.out), "bundle_version": bundle.version}])
    return Exit.OK


def _encoded(bundle: trust_pb2.TrustBundle, form: str) -> bytes:
    if form == "pb":
        return bundle.SerializeToString(deterministic=True)
    if form == "pem":
        return b"".join(authority.certificate_pem for authority in bundle.authorities)
    return spiffe_bundles.render(bundle).encode()


def _push(invocation: Invocation) -> Exit:
    options, console = invocation.options, invocation.console
    if options.dry_run:
        version = invocation.ask(fetch).bundle.version
        console.show([{"bundle_version": version + 1}])
        return Exit.OK

    async def work(issuer: Issuer) -> tuple[int, Sequence[str]]:
        answer = await issuer.call(
            issuer.issuer.PushTrustBundle,
            pb.PushTrustBundleRequest(reason=options.reason),
            retry=False,
        )
        version = int(answer.bundle_version)
        if not options.wait:
            return version, []
        seconds = None if options.timeout is None else options.timeout.total_seconds()
        return version, await _follow(issuer, invocation, version, seconds)

    version, behind = invocation.ask(work)
    console.show([{"bundle_version": version, "behind": list(behind)}])
    return Exit.PARTIAL if behind else Exit.OK


async def _follow(
    issuer: Issuer, invocation: Invocation, version: int, seconds: float | None
) -> list[str]:
    """Wait until everybody online holds `version`; those that do not when time is over."""
    clock, console = asyncio.get_running_loop().time, invocation.console
    ends = None if seconds is None else clock() + seconds
    while True:
        behind, everybody = await laggards(issuer, version)
        line = f"bundle v{version}: {len(everybody) - len(behind)}/{len(everybody)} hold it"
        (console.over if console.is_live else console.note)(line)
        if not behind or (ends is not None and clock() >= ends):
            if console.is_live:
                console.note("")
            return behind
        await asyncio.sleep(invocation.poll)


async def laggards(issuer: Issuer, version: int) -> tuple[list[str], list[str]]:
    """Who is online or a service and holds an older bundle; and everybody who counts."""
    held: dict[str, Any] = {
        service.name: service.held_bundle_version for service in await services.fetch(issuer)
    }
    for agent in await agents.fetch(issuer, is_online=True):
        held[agent.instance_id] = agent.held_bundle_version
    return [name for name, value in held.items() if value < version], list(held)
