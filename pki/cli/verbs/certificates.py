"""`certs`: issued certificates, and certificates in files."""

from __future__ import annotations

import argparse
import datetime as dt
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from pki.cli import times
from pki.cli.connection import Issuer
from pki.cli.console import Column, Row, counted
from pki.cli.documents import enum_name, kind_name, time_of, used
from pki.cli.exits import CommandError, Exit
from pki.cli.grammar import Reach, Verbs
from pki.cli.invocation import Invocation
from pki.cli.verbs import agents, authorities, rotations, services
from pki.profiles import SERVICE_BACKDATE
from trove_grpc.gen.issuer.v1 import agent_service_pb2, authority_service_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb

_STATES = ("pending", "current", "superseded", "denied")
# A service renews at a third; one that is past half of its life did not.
SERVICE_OVERDUE = 0.5
_PERCENT = 100


def register(verbs: Verbs) -> None:
    group = verbs.group("certs", "issued certificates")
    group.verb("check-expiration", _check_expiration, "how long everything lives still")
    listing = group.verb("list", _list, "newest first")
    listing.add_argument("--subject", default="", help="an instance id or a full SPIFFE ID")
    listing.add_argument("--state", choices=_STATES)
    listing.add_argument(
        "--expires-in", type=times.parse_span, metavar="SPAN", help="only those that end by then"
    )
    inspect = group.verb("inspect", _inspect, "what a PEM file holds", reach=Reach.NOTHING)
    inspect.add_argument("file", type=Path, metavar="FILE")
    needs = group.verb(
        "needs-renewal",
        _needs_renewal,
        "whether the certificate in a file is to be renewed: 0 yes, 3 no",
        reach=Reach.NOTHING,
    )
    needs.add_argument("file", type=Path, metavar="FILE")
    needs.add_argument(
        "--expires-in",
        type=_limit,
        default=0.66,
        metavar="PART|SPAN",
        help="the part of its life that may be used (66%%), or what must be left (24h)",
    )
    renew = group.verb("renew", _renew, "let agents renew: the given ones, or all")
    renew.add_argument("instance", metavar="INSTANCE", nargs="*")
    renew.add_argument("--all", dest="is_all", action="store_true", help="every agent")
    rotations.add_start_options(renew)


def _check_expiration(invocation: Invocation) -> Exit:
    now = invocation.now

    async def work(issuer: Issuer) -> tuple[list[Row], list[agent_service_pb2.Agent], Any]:
        listed = await services.fetch(issuer)
        lives = [await _life(issuer, service) for service in listed]
        return lives, await agents.fetch(issuer), await authorities.fetch(issuer)

    lives, fleet, answer = invocation.ask(work)
    rows = [_service_row(row, now) for row in lives]
    cas = [authorities.row_of(each) for each in answer.authorities]
    live = [row for row in cas if row["state"] in authorities.LIVE]
    guests = _guests_row(fleet, now)
    console = invocation.console
    if not console.is_for_people:
        console.document(
            [
                *({"type": "service", **row} for row in rows),
                *({"type": "authority", **row} for row in live),
                {"type": "guests", **guests},
            ]
        )
        return Exit.OK
    shown = [*rows, _guests_line(guests)] if guests["count"] else rows
    console.show(shown, _life_columns(), empty="no services and no guests")
    console.line()
    console.show(live, authorities.columns(now), empty="no authorities")
    _say_findings(invocation, rows, guests)
    return Exit.OK


def _say_findings(invocation: Invocation, rows: Sequence[Row], guests: Row) -> None:
    found = [f"{row['name']} is {row['state']}" for row in rows if row["state"] != "ok"]
    for state in ("overdue", "expired", "lost"):
        if count := guests["states"].get(state, 0):
            found += [
                f"{counted(count, 'guest')} {state} (see: trove-pki agents list --state {state})"
            ]
    if found:
        invocation.console.line(f"{counted(len(found), 'finding')}: {'; '.join(found)}")


async def _life(issuer: Issuer, service: authority_service_pb2.Service) -> Row:
    """A service with the dates of its certificate; when it began is in the list alone."""
    row = services.row_of(service)
    issued = await issued_time(issuer, service)
    return {**row, "issue_time": issued}


async def issued_time(
    issuer: Issuer, service: authority_service_pb2.Service
) -> dt.datetime | None:
    """When the service's present certificate was signed; None when it is not listed any more."""
    request = pb.ListCertificatesRequest(subject=service.name)
    for certificate in await issuer.pages(issuer.issuer.ListCertificates, request, "certificates"):
        if certificate.serial == service.serial:
            return time_of(certificate, "issue_time")
    return None


def _service_row(row: Row, now: dt.datetime) -> Row:
    start, end = row["issue_time"], row["expire_time"]
    part = None if start is None or end is None else round(used(start, end, now), 3)
    state = "ok"
    if end is not None and end <= now:
        state = "EXPIRED"
    elif part is not None and part >= SERVICE_OVERDUE:
        state = "DUE"
    return {
        "name": services.short_name(row["name"]),
        "serial": row["serial"],
        "authority": "service",
        "generation": row["generation"],
        "expire_time": end,
        "residual": None if end is None else max(end - now, dt.timedelta(0)),
        "used": part,
        "state": state,
    }


def _guests_row(fleet: Sequence[agent_service_pb2.Agent], now: dt.datetime) -> dict[str, Any]:
    """All guests in one row: a fleet does not fit on a screen."""
    rows = [agents.row_of(agent) for agent in fleet]
    ends = [row["expire_time"] for row in rows if row["expire_time"] and row["expire_time"] > now]
    return {
        "count": len(rows),
        "oldest_expire_time": min(ends, default=None),
        "states": dict(Counter(row["state"].lower() for row in rows)),
        "generations": sorted({row["generation"] for row in rows if row["generation"]}),
    }


def _guests_line(guests: Row) -> Row:
    others = [f"{n} {state}" for state, n in guests["states"].items() if state != "current"]
    end = guests["oldest_expire_time"]
    return {
        "name": f"guests ({guests['count']:,})",
        "expire_time": end and f"oldest {times.moment(end)}",
        "residual": None,
        "used": None,
        "authority": "guest",
        "generation": "/g".join(str(each) for each in guests["generations"]),
        "state": ", ".join(others) or "ok",
    }


def _life_columns() -> list[Column]:
    return [
        Column("CERTIFICATE", "name"),
        Column("EXPIRES", "expire_time"),
        Column("RESIDUAL", "residual"),
        Column("USED", lambda row: None if row["used"] is None else f"{row['used']:.0%}"),
        Column("AUTHORITY", lambda row: f"{row['authority']} g{row['generation']}"),
        Column("STATE", "state"),
    ]


def _list(invocation: Invocation) -> Exit:
    options = invocation.options
    found = invocation.ask(
        lambda issuer: issuer.pages(
            issuer.issuer.ListCertificates,
            pb.ListCertificatesRequest(subject=options.subject),
            "certificates",
        )
    )
    rows = [_row(certificate) for certificate in found]
    if options.state:
        rows = [row for row in rows if row["state"].lower() == options.state]
    if options.expires_in:
        rows = [row for row in rows if row["expire_time"] <= invocation.now + options.expires_in]
    columns = [
        Column("SERIAL", "serial"),
        Column("NAME", "name"),
        Column("AUTHORITY", lambda row: f"{row['authority']} g{row['generation']}"),
        Column("STATE", "state"),
        Column("ISSUED", "issue_time"),
        Column("EXPIRES", "expire_time"),
    ]
    invocation.console.show(rows, columns, empty="no certificates")
    return Exit.OK


def _row(certificate: pb.IssuedCertificate) -> dict[str, Any]:
    return {
        "serial": certificate.serial,
        "name": certificate.spiffe_id,
        "authority": kind_name(certificate.authority),
        "generation": certificate.generation,
        "state": enum_name(pb.CertificateState, certificate.state, "CERTIFICATE_STATE"),
        "issue_time": time_of(certificate, "issue_time"),
        "expire_time": time_of(certificate, "expire_time"),
    }


def _inspect(invocation: Invocation) -> Exit:
    rows = [_facts(each) for each in _load(invocation.options.file)]
    console = invocation.console
    if not console.is_for_people:
        console.document(rows)
        return Exit.OK
    for number, row in enumerate(rows):
        if number:
            console.line()
        console.facts(row)
    return Exit.OK


def _facts(certificate: x509.Certificate) -> dict[str, Any]:
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki)
    return {
        "subject": certificate.subject.rfc4514_string(),
        "names": _names(certificate),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "start_time": certificate.not_valid_before_utc,
        "expire_time": certificate.not_valid_after_utc,
        "is_authority": _is_authority(certificate),
        "purposes": _purposes(certificate),
        "key_sha256": digest.finalize().hex(),
        "fingerprint_sha256": certificate.fingerprint(hashes.SHA256()).hex(),
    }


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def _purposes(certificate: x509.Certificate) -> list[str]:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return []
    return [purpose._name for purpose in usage]  # noqa: SLF001  the library's name for the OID


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _load(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except ValueError as error:
        raise CommandError(Exit.ERROR, f"{file} holds no PEM certificate") from error


def _needs_renewal(invocation: Invocation) -> Exit:
    options, now = invocation.options, invocation.now
    leaf = _load(options.file)[0]
    start, end = leaf.not_valid_before_utc + SERVICE_BACKDATE, leaf.not_valid_after_utc
    part = used(start, end, now)
    limit = options.expires_in
    is_due = part >= limit if isinstance(limit, float) else end - now <= limit
    row = {
        "file": str(options.file),
        "expire_time": end,
        "used": round(part, 3),
        "life": end - start,
        "needs_renewal": is_due,
    }
    if not invocation.console.is_for_people:
        invocation.console.document([row])
    else:
        verdict = "renewal needed" if is_due else "renewal not needed"
        invocation.console.line(
            f"certificate has used {part:.0%} of its {times.span(end - start)} life; {verdict}"
        )
    return Exit.OK if is_due else Exit.NOTHING_TO_DO


def _limit(text: str) -> float | dt.timedelta:
    """`66%` as 0.66, `24h` as a span."""
    if not text.endswith("%"):
        return times.parse_span(text)
    try:
        part = float(text[:-1]) / _PERCENT
    except ValueError:
        part = 0.0
    if not 0 < part <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no part of a life: try 66% or 24h")
    return part


def _renew(invocation: Invocation) -> Exit:
    options = invocation.options
    if bool(options.instance) == options.is_all:
        raise CommandError(Exit.USAGE, "name instances, or say --all")
    return rotations.start(
        invocation,
        rotations.Wanted(
            kind=authority_service_pb2.ROTATION_KIND_LEAF, instance_ids=tuple(options.instance)
        ),
    )
