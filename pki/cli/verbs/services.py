"""`service` and `operator`: identities of control-plane processes, and of people."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

from cryptography import x509

from pki import enrolment, renewal
from pki.cli import times
from pki.cli.connection import Issuer, default_socket
from pki.cli.console import Column
from pki.cli.documents import time_of
from pki.cli.exits import Exit
from pki.cli.grammar import Reach, Verbs
from pki.cli.invocation import Invocation
from trove_grpc.client import PeerChannel
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as pb
from trove_grpc.identity import SERVICE_ROLES, Role
from trove_grpc.tls import IdentityDirectory


def register(verbs: Verbs) -> None:
    group = verbs.group("service", "identities of control-plane processes")
    enrol = group.verb(
        "enrol", _enrol, "give a directory a service's identity", reach=Reach.SOCKET
    )
    enrol.add_argument("--role", choices=sorted(SERVICE_ROLES), required=True)
    enrol.add_argument("--host", required=True, help="tells processes of one role apart")
    _add_directory(enrol)
    group.verb("list", _list, "services, with what each one holds")
    renew = group.verb(
        "renew",
        _renew,
        "renew the identity in a directory now, as its own service would",
        reach=Reach.NOTHING,
    )
    renew.add_argument("--issuer", metavar="HOST:PORT", required=True)
    renew.add_argument("--identity", type=Path, metavar="DIR", required=True)
    renew.add_argument("--force", action="store_true", help="also when it is not due yet")

    group = verbs.group("operator", "identities of people and tools")
    issue = group.verb(
        "issue", _issue, "give a directory an operator's identity", reach=Reach.SOCKET
    )
    issue.add_argument("--name", required=True)
    _add_directory(issue)
    issue.add_argument("--hours", type=float, help="at most the issuer's limit")


async def fetch(issuer: Issuer) -> list[pb.Service]:
    answer = await issuer.call(issuer.authorities.ListServices, pb.ListServicesRequest())
    return list(answer.services)


def row_of(service: pb.Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "serial": service.serial,
        "generation": service.generation,
        "expire_time": time_of(service, "expire_time"),
        "held_bundle_version": service.held_bundle_version,
        "last_seen_time": time_of(service, "last_seen_time"),
    }


def columns(now: dt.datetime) -> list[Column]:
    def since(row: Any) -> str:
        seen = row["last_seen_time"]
        return "never" if seen is None else times.ago(seen, now)

    return [
        Column("SERVICE", lambda row: short_name(row["name"])),
        Column("GEN", "generation"),
        Column("EXPIRES", "expire_time"),
        Column("RESIDUAL", lambda row: row["expire_time"] and row["expire_time"] - now),
        Column("BUNDLE", lambda row: f"v{row['held_bundle_version']}"),
        Column("SEEN", since),
    ]


def short_name(spiffe_id: str) -> str:
    """`gateway/gw-1` of `spiffe://local.trove/service/gateway/gw-1`."""
    return spiffe_id.partition("/service/")[2] or spiffe_id


def show_identity(invocation: Invocation, identity: IdentityDirectory) -> None:
    """What a directory holds now."""
    leaf = identity.load().leaf
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    row = {
        "spiffe_id": names.get_values_for_type(x509.UniformResourceIdentifier)[0],
        "serial": f"{leaf.serial_number:x}",
        "expire_time": leaf.not_valid_after_utc,
        "directory": str(identity.root),
    }
    invocation.console.show([row])


def _add_directory(parser: Any) -> None:
    parser.add_argument(
        "--identity", type=Path, metavar="DIR", required=True, help="directory to fill"
    )


def _list(invocation: Invocation) -> Exit:
    rows = [row_of(service) for service in invocation.ask(fetch)]
    invocation.console.show(rows, columns(invocation.now), empty="no services")
    return Exit.OK


def _enrol(invocation: Invocation) -> Exit:
    options = invocation.options
    identity = IdentityDirectory(options.identity)
    socket = options.socket or default_socket()
    asyncio.run(enrolment.enrol_service(socket, Role(options.role), options.host, identity))
    show_identity(invocation, identity)
    return Exit.OK


def _issue(invocation: Invocation) -> Exit:
    options = invocation.options
    identity = IdentityDirectory(options.identity)
    lifetime = None if options.hours is None else dt.timedelta(hours=options.hours)
    socket = options.socket or default_socket()
    asyncio.run(enrolment.issue_operator(socket, options.name, identity, lifetime))
    show_identity(invocation, identity)
    return Exit.OK


def _renew(invocation: Invocation) -> Exit:
    options = invocation.options
    identity = IdentityDirectory(options.identity)
    due = renewal.due_time(identity.load().leaf)
    if invocation.now < due and not options.force:
        invocation.console.note(
            f"not due before {times.moment(due)}; --force renews it all the same"
        )
        show_identity(invocation, identity)
        return Exit.NOTHING_TO_DO
    asyncio.run(_renew_now(options.issuer, identity))
    show_identity(invocation, identity)
    return Exit.OK


async def _renew_now(issuer: str, identity: IdentityDirectory) -> None:
    async with PeerChannel([issuer], identity=identity, server_role=Role.ISSUER) as channel:
        await renewal.ServiceRenewer(identity, channel).renew()
