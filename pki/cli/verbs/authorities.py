"""`ca`, `taint` and `crl`: the authorities themselves."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pki import profiles
from pki.cli import times
from pki.cli.connection import Issuer
from pki.cli.console import Column, Row
from pki.cli.documents import certificate_facts, kind_name, state_name, time_of
from pki.cli.exits import CommandError, Exit
from pki.cli.grammar import Verbs
from pki.cli.invocation import Invocation
from pki.cli.plans import Plan, is_agreed
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as pb

# States in which a generation matters to somebody.
LIVE = ("PREPARED", "TRUSTED", "ACTIVE", "DRAINING", "TAINTED")
_PREPARED = ("PREPARED", "TRUSTED")
_OLD = ("DRAINING", "TAINTED", "RETIRED", "DESTROYED")


def register(verbs: Verbs) -> None:
    group = verbs.group("ca", "the authorities and their generations")
    listing = group.verb("list", _list, "every generation of every authority")
    listing.add_argument("--all", dest="is_all", action="store_true", help="retired ones too")
    show = group.verb("show", _show, "one authority: what signs, what is next, what was before")
    show.add_argument("authority", choices=sorted(profiles.KINDS_BY_NAME))

    taint = verbs.verb("taint", _taint, "declare a generation compromised: its leaves end at once")
    taint.add_argument("authority", choices=sorted(profiles.KINDS_BY_NAME))
    taint.add_argument("generation", type=int, metavar="GENERATION")
    taint.add_argument("--reason", required=True)
    taint.add_argument(
        "--no-successor",
        action="store_true",
        help="although it signs and nothing can take its place: everybody is locked out",
    )

    crl = verbs.group("crl", "lists of revoked serials, for other software")
    export = crl.verb("export", _export_crl, "sign and write a list (DER)")
    export.add_argument("authority", choices=sorted(profiles.KINDS_BY_NAME))
    export.add_argument("--generation", type=int, default=0, help="default: the one that signs")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")


async def fetch(issuer: Issuer) -> pb.ListAuthoritiesResponse:
    answer: pb.ListAuthoritiesResponse = await issuer.call(
        issuer.authorities.ListAuthorities, pb.ListAuthoritiesRequest()
    )
    return answer


def row_of(authority: pb.Authority) -> dict[str, Any]:
    certificate = authority.certificate
    facts = certificate_facts(certificate.certificate_pem)
    return {
        "authority": kind_name(certificate.kind),
        "generation": certificate.generation,
        "state": state_name(certificate.state),
        "serial": facts["serial"],
        "start_time": facts["start_time"],
        "expire_time": facts["expire_time"],
        "signed_by": _signed_by(authority),
        "is_cross_signed": bool(certificate.cross_certificate_pem),
        "create_time": time_of(authority, "create_time"),
        "live_leaves": authority.live_leaves,
        "last_leaf_expire_time": time_of(authority, "last_leaf_expire_time"),
    }


def columns(now: dt.datetime) -> list[Column]:
    return [
        Column("AUTHORITY", "authority"),
        Column("GEN", "generation"),
        Column("STATE", "state"),
        Column("EXPIRES", "expire_time"),
        Column("RESIDUAL", lambda row: row["expire_time"] - now),
        Column("SIGNED BY", "signed_by"),
        Column("LEAVES", "live_leaves"),
    ]


def _signed_by(authority: pb.Authority) -> str:
    parent = profiles.PARENTS.get(authority.certificate.kind)
    if parent is None:
        return ""
    if parent == authority.certificate.kind:
        return "self"
    return f"{kind_name(parent)} g{authority.signed_by_generation}"


def _list(invocation: Invocation) -> Exit:
    rows = [row_of(each) for each in invocation.ask(fetch).authorities]
    if not invocation.options.is_all:
        rows = [row for row in rows if row["state"] in LIVE]
    invocation.console.show(rows, columns(invocation.now), empty="no authorities")
    return Exit.OK


def _show(invocation: Invocation) -> Exit:
    name = invocation.options.authority
    rows = [row_of(each) for each in invocation.ask(fetch).authorities]
    rows = [row for row in rows if row["authority"] == name]
    if not rows:
        raise CommandError(Exit.ERROR, f"there is no {name} authority; run `trove-pki init`")
    console = invocation.console
    if not console.is_for_people:
        console.document(rows)
        return Exit.OK
    for title, states in (("Active", ("ACTIVE",)), ("Prepared", _PREPARED), ("Old", _OLD)):
        found = [row for row in rows if row["state"] in states]
        lines = [_line(row) for row in found] or ["none"]
        console.line(f"{f'{title} authorities:':23}{lines[0]}")
        for line in lines[1:]:
            console.line(f"{'':23}{line}")
    return Exit.OK


def _line(row: Row) -> str:
    text = (
        f"g{row['generation']}  {row['state']}  serial {row['serial'][:12]}..  "
        f"expires {times.moment(row['expire_time'])}  signed by {row['signed_by']}"
    )
    if row["live_leaves"]:
        text += f"  ({row['live_leaves']} live leaves"
        if newest := row["last_leaf_expire_time"]:
            text += f", newest expires {times.moment(newest)}"
        text += ")"
    return text


def _taint(invocation: Invocation) -> Exit:
    options = invocation.options
    name = f"{options.authority}-g{options.generation}"
    steps = [
        "every certificate it signed is refused at once, on every gateway",
        "nobody can renew or recover with one of them: their holders need new tokens",
    ]
    if options.no_successor:
        steps.append("where nothing can take its place nobody of its kind connects any more")
    if not is_agreed(invocation, Plan(f"taint {name}", name, steps)):
        return Exit.OK
    request = pb.TaintAuthorityRequest(
        kind=profiles.KINDS_BY_NAME[options.authority],
        generation=options.generation,
        reason=options.reason,
        without_successor=options.no_successor,
    )
    answer = invocation.ask(lambda issuer: issuer.call(issuer.authorities.TaintAuthority, request))
    row = row_of(answer.authority)
    stranded = [stranded_row(each) for each in answer.stranded]
    after = [stranded_line(each, invocation.now) for each in stranded]
    after += more(stranded, answer.stranded_total, "trove-pki agents list")
    if after:
        after = [
            f"{answer.stranded_total} instances need a token now:",
            *(f"  {line}" for line in after),
        ]
    shown = {**row, "stranded": stranded, "stranded_total": answer.stranded_total}
    invocation.console.show([shown], columns(invocation.now), after=after)
    return Exit.PARTIAL if stranded else Exit.OK


def more(named: Sequence[Row], total: int, how: str) -> list[str]:
    """A line for those that an answer counts and does not name."""
    unnamed = total - len(named)
    return [f"... and {unnamed} more: {how}"] if unnamed > 0 else []


def stranded_row(each: pb.Stranded) -> dict[str, Any]:
    return {
        "instance_id": each.instance_id,
        "why": each.why,
        "last_seen_time": time_of(each, "last_seen_time"),
        "is_recoverable": each.is_recoverable,
        "command": each.command,
    }


def stranded_line(row: Row, now: dt.datetime) -> str:
    """Who, why, and the command that helps."""
    seen = row["last_seen_time"]
    last = "never seen" if seen is None else f"last seen {times.ago(seen, now)}"
    text = f"{row['instance_id']}  {last}  {row['why']}  recoverable: "
    text += "yes" if row["is_recoverable"] else "NO"
    return f"{text}  -> needs: {row['command']}" if row["command"] else text


def _export_crl(invocation: Invocation) -> Exit:
    options = invocation.options
    request = pb.ExportCrlRequest(
        kind=profiles.KINDS_BY_NAME[options.authority], generation=options.generation
    )
    answer = invocation.ask(
        lambda issuer: issuer.call(issuer.authorities.ExportCrl, request, retry=False)
    )
    options.out.write_bytes(answer.crl_der)
    invocation.console.show([{"file": str(options.out), "revoked": answer.revoked}])
    return Exit.OK
