"""`status`: the whole PKI on one screen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pki.cli import rotation_views, snapshot, times
from pki.cli.console import Row
from pki.cli.documents import time_of
from pki.cli.exits import Exit
from pki.cli.grammar import Verbs
from pki.cli.invocation import Invocation
from pki.cli.snapshot import Snapshot
from pki.cli.verbs import agents, audit, authorities, custody, services


def register(verbs: Verbs) -> None:
    status = verbs.verb("status", _status, "the whole PKI on one screen")
    status.add_argument(
        "--config", type=Path, help="the issuer's TOML file, on its host: shows custody too"
    )


def _status(invocation: Invocation) -> Exit:
    seen = invocation.ask(snapshot.take)
    file = invocation.options.config
    keys = None if file is None else custody.fetch_status(file)
    row = {**_row(seen), "custody": keys}
    if not invocation.console.is_for_people:
        invocation.console.document([row])
        return Exit.OK
    _show(invocation, row, seen)
    return Exit.OK


def _row(seen: Snapshot) -> dict[str, Any]:
    version = seen.bundle.version
    online = [agent for agent in seen.agents if agent.is_online]
    states = Counter(agents.state_of(agent).lower() for agent in seen.agents)
    return {
        "trust_domain": seen.bundle.trust_domain,
        "bundle_version": version,
        "bundle_time": time_of(seen.bundle, "create_time"),
        "agents_online": len(online),
        "agents_online_behind": sum(agent.held_bundle_version < version for agent in online),
        "services_behind": sum(each.held_bundle_version < version for each in seen.services),
        "federated": [each.trust_domain for each in seen.bundle.federated],
        "agents": {state: states.get(state, 0) for state in agents.STATES if state != "retired"},
        "authorities": [authorities.row_of(each) for each in seen.authorities],
        "rotations": [rotation_views.row_of(each) for each in seen.rotations],
        "services": [services.row_of(each) for each in seen.services],
        "audit": audit.verification_row(seen.audit),
    }


def _show(invocation: Invocation, row: Row, seen: Snapshot) -> None:
    console, now = invocation.console, invocation.now
    created = row["bundle_time"]
    age = "" if created is None else f", {times.ago(created, now)}"
    others = f"   federated with {', '.join(row['federated'])}" if row["federated"] else ""
    console.line(
        f"Trust domain  {row['trust_domain']}   bundle v{row['bundle_version']}{age}{others}"
    )
    console.line(
        f"Bundle lag    {row['agents_online_behind']} of {row['agents_online']} agents online, "
        f"{row['services_behind']} of {len(row['services'])} services hold an older one"
    )
    counts = "  ".join(f"{state} {n}" for state, n in row["agents"].items() if n)
    console.line(f"Agents        {counts or 'none'}")
    console.line(f"Audit         {_audit(invocation, row['audit'])}")
    console.line()
    live = [each for each in row["authorities"] if each["state"] in authorities.LIVE]
    console.show(live, authorities.columns(now), empty="no authorities")
    console.line()
    rotation_views.show(invocation, seen.rotations)
    console.line()
    console.show(row["services"], services.columns(now), empty="no services")
    console.line()
    _show_custody(invocation, row["custody"])


def _show_custody(invocation: Invocation, keys: list[Row] | None) -> None:
    if keys is None:
        invocation.console.line("Custody       asked on the issuer's host, with --config")
    else:
        invocation.console.show(keys, custody.COLUMNS)


def _audit(invocation: Invocation, row: Row) -> str:
    checkpoint = row["last_checkpoint"]
    last = (
        "no checkpoint yet"
        if checkpoint is None
        else f"last checkpoint {times.ago(checkpoint['create_time'], invocation.now)}"
    )
    text = f"head seq {row['head_sequence']} sha256 {row['head_hash'][:12]}..  {last}"
    return f"BROKEN: {row['problem']}  {text}" if row["problem"] else text
