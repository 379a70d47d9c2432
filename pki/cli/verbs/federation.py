"""`federation`: trust in other regions. The issuer calls nobody, so bundles are fetched here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pki.cli import endpoints, spiffe_bundles, times
from pki.cli.connection import Issuer
from pki.cli.console import Column, Row
from pki.cli.documents import time_of
from pki.cli.exits import CommandError, Exit
from pki.cli.grammar import Verbs
from pki.cli.invocation import Invocation
from pki.cli.plans import Plan, is_agreed
from trove_grpc.errors import TroveError
from trove_grpc.gen.issuer.v1 import federation_service_pb2 as pb

_PIN = re.compile(r"\A[0-9a-fA-F]{64}\Z")


def register(verbs: Verbs) -> None:
    group = verbs.group("federation", "trust in other regions")
    add = group.verb("add", _add, "trust the services of another trust domain")
    add.add_argument("trust_domain", metavar="TRUST_DOMAIN")
    add.add_argument("--bundle-endpoint", default="", metavar="URL", help="where it is fetched")
    add.add_argument(
        "--pin",
        default="",
        metavar="SHA256",
        help="of the endpoint's key (SPKI), hex; without it the public web PKI must vouch",
    )
    add.add_argument(
        "--file", type=Path, help="the bundle, carried here by hand (`bundle export` wrote it)"
    )
    group.verb("list", _list, "what is trusted, and how old it is")
    refresh = group.verb("refresh", _refresh, "fetch bundles anew")
    refresh.add_argument("trust_domain", metavar="TRUST_DOMAIN", nargs="*", help="default: all")
    remove = group.verb("remove", _remove, "end the trust in another trust domain")
    remove.add_argument("trust_domain", metavar="TRUST_DOMAIN")


def _add(invocation: Invocation) -> Exit:
    options = invocation.options
    if not options.bundle_endpoint and options.file is None:
        raise CommandError(Exit.USAGE, "say where the bundle is: --bundle-endpoint or --file")
    if options.pin and not _PIN.match(options.pin):
        raise CommandError(Exit.USAGE, "--pin is a SHA-256: 64 hexadecimal digits")
    if options.file is not None:
        text = options.file.read_text()
    else:
        text = endpoints.fetch(options.bundle_endpoint, options.pin)
    federation = pb.Federation(
        bundle=spiffe_bundles.parse(text, options.trust_domain),
        endpoint_url=options.bundle_endpoint,
        pin=options.pin.lower(),
    )
    plan = Plan(
        f"trust the services of {options.trust_domain}",
        options.trust_domain,
        [f"{len(federation.bundle.root_pems)} roots, sequence {federation.bundle.sequence}"],
    )
    if not is_agreed(invocation, plan):
        return Exit.OK
    _show(invocation, [row_of(invocation.ask(lambda issuer: _put(issuer, federation)))])
    return Exit.OK


async def fetch(issuer: Issuer) -> list[pb.Federation]:
    answer = await issuer.call(
        issuer.federation.ListFederatedBundles, pb.ListFederatedBundlesRequest()
    )
    return list(answer.federations)


def row_of(federation: pb.Federation) -> dict[str, Any]:
    bundle = federation.bundle
    return {
        "trust_domain": bundle.trust_domain,
        "sequence": bundle.sequence,
        "roots": len(bundle.root_pems),
        "endpoint_url": federation.endpoint_url,
        "pin": federation.pin,
        "refresh_time": time_of(bundle, "refresh_time"),
    }


async def _put(issuer: Issuer, federation: pb.Federation) -> pb.Federation:
    answer = await issuer.call(
        issuer.federation.PutFederatedBundle, pb.PutFederatedBundleRequest(federation=federation)
    )
    kept: pb.Federation = answer.federation
    return kept


def _list(invocation: Invocation) -> Exit:
    _show(invocation, [row_of(each) for each in invocation.ask(fetch)])
    return Exit.OK


def _refresh(invocation: Invocation) -> Exit:
    wanted = invocation.options.trust_domain

    async def work(issuer: Issuer) -> tuple[list[Row], list[str]]:
        rows: list[Row] = []
        problems: list[str] = []
        for known in await fetch(issuer):
            name = known.bundle.trust_domain
            if (wanted and name not in wanted) or not known.endpoint_url:
                continue
            try:
                text = endpoints.fetch(known.endpoint_url, known.pin)
                fresh = pb.Federation(
                    bundle=spiffe_bundles.parse(text, name),
                    endpoint_url=known.endpoint_url,
                    pin=known.pin,
                )
                rows.append(row_of(await _put(issuer, fresh)))
            except TroveError as error:
                problems.append(f"{name}: {error.message}")
        return rows, problems

    rows, problems = invocation.ask(work)
    _show(invocation, rows)
    for problem in problems:
        invocation.console.note(f"trove-pki: {problem}")
    if problems:
        return Exit.PARTIAL if rows else Exit.ERROR
    return Exit.OK if rows else Exit.NOTHING_TO_DO


def _remove(invocation: Invocation) -> Exit:
    name = invocation.options.trust_domain
    plan = Plan(f"end the trust in {name}", name, ["its services can call nothing here any more"])
    if not is_agreed(invocation, plan):
        return Exit.OK
    answer = invocation.ask(
        lambda issuer: issuer.call(
            issuer.federation.RemoveFederatedBundle,
            pb.RemoveFederatedBundleRequest(trust_domain=name),
        )
    )
    invocation.console.show([{"trust_domain": name, "was_removed": answer.was_removed}])
    return Exit.OK if answer.was_removed else Exit.NOTHING_TO_DO


def _show(invocation: Invocation, rows: list[Row]) -> None:
    now = invocation.now

    def age(row: Row) -> str | None:
        moment = row["refresh_time"]
        return moment and times.ago(moment, now)

    columns = [
        Column("TRUST DOMAIN", "trust_domain"),
        Column("SEQUENCE", "sequence"),
        Column("ROOTS", "roots"),
        Column("REFRESHED", age),
        Column("ENDPOINT", "endpoint_url"),
        Column("PINNED", lambda row: bool(row["pin"])),
    ]
    invocation.console.show(rows, columns, empty="no other trust domain is trusted")
