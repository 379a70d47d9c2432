"""`agents`: who is where in its life, whom to refuse, and the way back."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pki.cli import times
from pki.cli.connection import Issuer
from pki.cli.console import Column, Row
from pki.cli.documents import enum_name, span_of, time_of
from pki.cli.exits import CommandError, Exit
from pki.cli.grammar import Verbs
from pki.cli.invocation import Invocation
from pki.cli.plans import Plan, is_agreed
from pki.cli.verbs import tokens
from trove_grpc.errors import TroveError
from trove_grpc.gen.issuer.v1 import agent_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2

STATES = (
    "never",
    "current",
    "overdue",
    "expired",
    "lost",
    "quarantined",
    "denied",
    "retired",
)
_DENIABLE = ("serial", "key", "instance", "tenant", "generation")
# A serial or a key that was denied is burnt: a new token is the way back.
_LIFTABLE = ("instance", "tenant", "generation")
# Commands that the issuer proposes work as it prints them.
_BY_HAND = "by an operator"
_CERTIFICATE_COLUMNS = [
    Column("SERIAL", "serial"),
    Column("AUTHORITY", lambda row: f"{row['authority']} g{row['generation']}"),
    Column("STATE", "state"),
    Column("ISSUED", "issue_time"),
    Column("EXPIRES", "expire_time"),
]


def register(verbs: Verbs) -> None:
    group = verbs.group("agents", "guest agents' identities")
    listing = group.verb(
        "list", _list, "agents, and the command that helps each that cannot return"
    )
    listing.add_argument("--state", choices=STATES)
    listing.add_argument("--tenant", default="", metavar="ID")
    where = listing.add_mutually_exclusive_group()
    where.add_argument("--online", dest="is_online", action="store_true", default=None)
    where.add_argument("--offline", dest="is_online", action="store_false", default=None)
    show = group.verb("show", _show, "one agent with its certificates")
    show.add_argument("instance", metavar="INSTANCE")
    deny = group.verb("deny", _deny, "refuse an agent from now on")
    deny.add_argument("value", metavar="INSTANCE")
    deny.add_argument("--kind", choices=_DENIABLE, default="instance", help="what INSTANCE names")
    deny.add_argument("--reason", required=True)
    allow = group.verb("allow", _allow, "end a denial that a person wrote")
    allow.add_argument("value", metavar="INSTANCE")
    allow.add_argument("--kind", choices=_LIFTABLE, default="instance", help="what INSTANCE names")
    allow.add_argument("--reason", default=_BY_HAND, help="for the audit")
    recovery = group.verb(
        "allow-recovery", _allow_recovery, "let an agent return although it was off too long"
    )
    recovery.add_argument("instance", metavar="INSTANCE")
    recovery.add_argument("--for", dest="lifetime", type=times.parse_span, metavar="SPAN")
    recovery.add_argument("--reason", default=_BY_HAND, help="for the audit")
    clone = group.verb(
        "resolve-clone", _resolve_clone, "end the suspicion that a key exists twice"
    )
    clone.add_argument("instance", metavar="INSTANCE")
    how = clone.add_mutually_exclusive_group(required=True)
    how.add_argument("--keep", action="store_true", help="it was a false alarm")
    how.add_argument(
        "--reissue", action="store_true", help="every key it holds ends; show a new token"
    )
    clone.add_argument("--reason", default=_BY_HAND, help="for the audit")
    tokens.add_token_file(clone)
    reissue = group.verb("reissue-token", _reissue, "new tokens for agents that cannot return")
    reissue.add_argument("instance", metavar="INSTANCE", nargs="*")
    reissue.add_argument("--stale", action="store_true", help="for every agent that is lost")
    reissue.add_argument(
        "--token-directory",
        type=Path,
        metavar="DIR",
        help="put each secret there, in a file (mode 0600) named like its instance",
    )

    deny = verbs.verb("deny", _deny, "refuse an identity from now on")
    deny.add_argument("kind", choices=_DENIABLE)
    deny.add_argument("value")
    deny.add_argument("--reason", required=True)


async def fetch(
    issuer: Issuer, state: str | None = None, *, tenant_id: str = "", is_online: bool | None = None
) -> list[pb.Agent]:
    request = pb.ListAgentsRequest(tenant_id=tenant_id, is_online=is_online)
    if state is not None:
        request.state = pb.AgentState.Value(f"AGENT_STATE_{state.upper()}")
    return await issuer.pages(issuer.agents.ListAgents, request, "agents")


def row_of(agent: pb.Agent) -> dict[str, Any]:
    return {
        "instance_id": agent.instance_id,
        "tenant_id": agent.tenant_id,
        "state": state_of(agent),
        "serial": agent.serial,
        "generation": agent.generation,
        "expire_time": time_of(agent, "expire_time"),
        "is_online": agent.is_online,
        "gateway_id": agent.gateway_id,
        "last_seen_time": time_of(agent, "last_seen_time"),
        "held_bundle_version": agent.held_bundle_version,
        "clock_skew": span_of(agent, "clock_skew"),
        "engine_generation": agent.engine_generation,
        "quarantine_time": time_of(agent, "quarantine_time"),
        "quarantine_reason": agent.quarantine_reason,
        "recovery_until_time": time_of(agent, "recovery_until_time"),
        "command": agent.command,
    }


def state_of(agent: pb.Agent) -> str:
    return enum_name(pb.AgentState, agent.state, "AGENT_STATE")


def _list(invocation: Invocation) -> Exit:
    options = invocation.options
    found = invocation.ask(
        lambda issuer: fetch(
            issuer, options.state, tenant_id=options.tenant, is_online=options.is_online
        )
    )
    rows = [row_of(agent) for agent in found]
    helped = [f"{row['instance_id']}: {row['command']}" for row in rows if row["command"]]
    after = ["", "What helps:", *(f"  {line}" for line in helped)] if helped else []
    invocation.console.show(rows, _columns(invocation.now), empty="no agents", after=after)
    return Exit.OK


def _columns(now: dt.datetime) -> Sequence[Column]:
    def since(row: Row) -> str:
        seen = row["last_seen_time"]
        return "never" if seen is None else times.ago(seen, now)

    def left(row: Row) -> str | None:
        end = row["expire_time"]
        if end is None:
            return None
        return times.span(end - now) if end > now else times.ago(end, now)

    return [
        Column("INSTANCE", "instance_id"),
        Column("TENANT", "tenant_id"),
        Column("STATE", "state"),
        Column("RESIDUAL", left),
        Column("GEN", "generation"),
        Column("BUNDLE", lambda row: f"v{row['held_bundle_version']}"),
        Column("ONLINE", lambda row: row["gateway_id"] if row["is_online"] else "no"),
        Column("SEEN", since),
    ]


def _show(invocation: Invocation) -> Exit:
    answer = invocation.ask(
        lambda issuer: issuer.call(
            issuer.agents.GetAgent, pb.GetAgentRequest(instance_id=invocation.options.instance)
        )
    )
    row = row_of(answer.agent)
    certificates = [
        {
            "serial": each.serial,
            "authority": each.authority,
            "generation": each.generation,
            "state": each.state,
            "issue_time": time_of(each, "issue_time"),
            "expire_time": time_of(each, "expire_time"),
        }
        for each in answer.certificates
    ]
    console = invocation.console
    if not console.is_for_people:
        console.document([{**row, "certificates": certificates}])
        return Exit.OK
    console.facts(row)
    console.line()
    console.show(certificates, _CERTIFICATE_COLUMNS, empty="no certificates")
    return Exit.OK


def _deny(invocation: Invocation) -> Exit:
    options = invocation.options
    plan = Plan(
        f"deny {options.kind} {options.value}",
        options.value,
        [
            "its connections end within seconds",
            "it cannot come back without a new identity, or `trove-pki agents allow`",
        ],
    )
    if not is_agreed(invocation, plan):
        return Exit.OK
    request = issuer_service_pb2.CreateDenialRequest(
        kind=issuer_service_pb2.DenialKind.Value(f"DENIAL_KIND_{options.kind.upper()}"),
        value=options.value,
        reason=options.reason,
    )
    answer = invocation.ask(lambda issuer: issuer.call(issuer.issuer.CreateDenial, request))
    denial = answer.denial
    invocation.console.show(
        [
            {
                "sequence": denial.sequence,
                "kind": options.kind,
                "value": denial.value,
                "reason": denial.reason,
                "effective_time": time_of(denial, "effective_time"),
            }
        ]
    )
    return Exit.OK


def _allow(invocation: Invocation) -> Exit:
    options = invocation.options
    plan = Plan(f"end the denial of {options.kind} {options.value}", options.value)
    if options.dry_run and not is_agreed(invocation, plan):
        return Exit.OK
    request = pb.LiftDenialRequest(
        kind=issuer_service_pb2.DenialKind.Value(f"DENIAL_KIND_{options.kind.upper()}"),
        value=options.value,
        reason=options.reason,
    )
    answer = invocation.ask(lambda issuer: issuer.call(issuer.agents.LiftDenial, request))
    invocation.console.show(
        [{"kind": options.kind, "value": options.value, "was_lifted": answer.was_lifted}]
    )
    return Exit.OK if answer.was_lifted else Exit.NOTHING_TO_DO


def _allow_recovery(invocation: Invocation) -> Exit:
    options = invocation.options
    request = pb.AllowRecoveryRequest(instance_id=options.instance, reason=options.reason)
    if options.lifetime is not None:
        request.lifetime.FromTimedelta(options.lifetime)
    answer = invocation.ask(lambda issuer: issuer.call(issuer.agents.AllowRecovery, request))
    _show_agent(invocation, answer.agent)
    return Exit.OK


def _resolve_clone(invocation: Invocation) -> Exit:
    options = invocation.options
    resolution = pb.CLONE_RESOLUTION_KEEP if options.keep else pb.CLONE_RESOLUTION_REISSUE
    if options.reissue:
        plan = Plan(
            f"end every key of instance {options.instance}",
            options.instance,
            ["its connections end within seconds", "it returns with the token shown here alone"],
        )
        if not is_agreed(invocation, plan):
            return Exit.OK

    async def work(issuer: Issuer) -> tuple[Any, Row | None]:
        request = pb.ResolveCloneRequest(
            instance_id=options.instance, resolution=resolution, reason=options.reason
        )
        answer = await issuer.call(issuer.agents.ResolveClone, request)
        return answer, await tokens.mint(issuer, options.instance) if options.reissue else None

    answer, token = invocation.ask(work)
    if token is None:
        _show_agent(invocation, answer.agent)
        return Exit.OK
    row = {**tokens.in_file(token, options.token_file)}
    invocation.console.show([{**row, "ended_certificates": answer.ended_certificates}])
    return Exit.OK


def _reissue(invocation: Invocation) -> Exit:
    options = invocation.options
    if bool(options.instance) == options.stale:
        raise CommandError(Exit.USAGE, "name instances, or say --stale for all that are lost")

    async def work(issuer: Issuer) -> tuple[list[Row], list[str]]:
        wanted = options.instance
        if options.stale:
            wanted = [agent.instance_id for agent in await fetch(issuer, "lost")]
        if options.dry_run:
            return [{"instance_id": each} for each in wanted], []
        return await _mint_each(issuer, wanted, options.token_directory)

    rows, problems = invocation.ask(work)
    invocation.console.show(rows, empty="no agent needs a token")
    for problem in problems:
        invocation.console.note(f"trove-pki: {problem}")
    if problems:
        return Exit.PARTIAL if rows else Exit.ERROR
    return Exit.OK if rows else Exit.NOTHING_TO_DO


async def _mint_each(
    issuer: Issuer, instance_ids: Sequence[str], directory: Path | None
) -> tuple[list[Row], list[str]]:
    """Tokens for all that get one, and why the others get none."""
    if directory is not None:
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
    rows, problems = [], []
    for instance_id in instance_ids:
        try:
            row = await tokens.mint(issuer, instance_id)
        except TroveError as error:
            problems.append(f"{instance_id}: {error.message}")
            continue
        rows.append(tokens.in_file(row, directory and directory / instance_id))
    return rows, problems


def _show_agent(invocation: Invocation, agent: pb.Agent) -> None:
    invocation.console.show([row_of(agent)], _columns(invocation.now))
