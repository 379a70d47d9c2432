"""What `doctor` makes of a snapshot. Each judge is told everything and asks nobody."""

from __future__ import annotations

import datetime as dt
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from pki.cli import times, waiting
from pki.cli.console import counted
from pki.cli.documents import certificate_facts, kind_name, span_of, state_name, time_of, used
from pki.cli.findings import Finding, error, warning
from pki.cli.snapshot import Snapshot
from pki.cli.verbs import agents, authorities, services
from trove_grpc.gen.issuer.v1 import agent_service_pb2
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as pb

# A guest's certificate begins ten minutes in the past, a service's two: half of that is close.
_MOST_SKEW = dt.timedelta(seconds=60)
# So many of a gateway's agents, all off by the same: then it is the gateway.
_ENOUGH_AGENTS = 3
_LIFE_LEFT = 0.25
# A service renews at a third of its life.
_SERVICE_USED = 0.5
_STUCK = dt.timedelta(hours=1)
_SILENT = dt.timedelta(minutes=10)
_CHECKPOINT_AGE = dt.timedelta(hours=2)
# A region that rotates its root tells of the new one days before; a timer asks each few minutes.
_REGION_AGE = dt.timedelta(hours=24)
_NAMED = 5


def judge(seen: Snapshot, now: dt.datetime) -> list[Finding]:
    """All findings, the worst first."""
    found = [
        *clocks(seen),
        *fleet(seen),
        *control_plane(seen, now),
        *life(seen, now),
        *stuck(seen, now),
        *regions(seen, now),
        *diary(seen, now),
    ]
    return sorted(found, key=lambda finding: (finding.level, finding.check))


def clocks(seen: Snapshot) -> Iterator[Finding]:
    difference = seen.clock_difference
    if difference is not None and abs(difference) > _MOST_SKEW:
        yield error(
            "clock",
            what=f"the issuer's clock differs from this host's by {times.span(abs(difference))}",
            why="certificates begin and end by the issuer's clock and are judged by each peer's",
            do="see which of the two `chronyc tracking` calls wrong, and set it",
        )
    skews: dict[str, list[tuple[str, dt.timedelta]]] = {}
    for agent in seen.agents:
        skew = span_of(agent, "clock_skew")
        if skew is not None and agent.is_online:
            skews.setdefault(agent.gateway_id, []).append((agent.instance_id, skew))
    for gateway, known in skews.items():
        yield from _gateway_clock(gateway, known)


def _gateway_clock(gateway: str, known: Sequence[tuple[str, dt.timedelta]]) -> Iterator[Finding]:
    off = [(name, skew) for name, skew in known if abs(skew) > _MOST_SKEW]
    middle = dt.timedelta(seconds=statistics.median(skew.total_seconds() for _, skew in known))
    if len(known) >= _ENOUGH_AGENTS and len(off) == len(known) and abs(middle) > _MOST_SKEW:
        yield error(
            "clock",
            what=f"all {len(known)} agents at {gateway} are off by {times.span(abs(middle))}",
            why="so it is the gateway's own clock: it may refuse good certificates, or admit old",
            do=f"set the clock of {gateway}",
        )
        return
    if off:
        yield warning(
            "clock",
            what=f"{len(off)} agents at {gateway} have a wrong clock: {_names(off)}",
            why="beyond ten minutes they call a new certificate not yet valid",
            do="let time synchronisation run in those guests",
        )


def _names(known: Sequence[tuple[str, dt.timedelta]]) -> str:
    shown = [f"{name} ({times.span(skew)})" for name, skew in known[:_NAMED]]
    return ", ".join(shown) + (" and others" if len(known) > _NAMED else "")


def fleet(seen: Snapshot) -> Iterator[Finding]:
    counts = Counter(agents.state_of(agent).lower() for agent in seen.agents)
    if count := counts["overdue"]:
        yield warning(
            "agents",
            what=f"{counted(count, 'agent')} past two thirds of their certificate's life",
            why="they should have renewed at half; they expire next",
            do="trove-pki agents list --state overdue",
        )
    if count := counts["expired"]:
        yield warning(
            "agents",
            what=f"{counted(count, 'agent')} expired",
            why="they come back by themselves while the recovery grace lasts, not after it",
            do="trove-pki agents list --state expired; start their guests",
        )
    if count := counts["lost"]:
        yield error(
            "agents",
            what=f"{counted(count, 'agent')} that cannot come back by themselves",
            why="they expired longer ago than the grace, or their authority was tainted",
            do="trove-pki agents reissue-token --stale",
        )
    for agent in seen.agents:
        if agent.state == agent_service_pb2.AGENT_STATE_QUARANTINED:
            yield error(
                "quarantine",
                what=f"agent {agent.instance_id} is quarantined: {agent.quarantine_reason}",
                why="its key may exist twice: it renews nothing until somebody decides",
                do=agent.command or f"trove-pki agents resolve-clone {agent.instance_id} --keep",
            )
    version = seen.bundle.version
    behind = [
        agent.instance_id
        for agent in seen.agents
        if agent.is_online and agent.held_bundle_version < version
    ]
    if behind:
        yield warning(
            "bundle",
            what=f"{len(behind)} agents online hold an older bundle than v{version}",
            why="a rotation waits for them",
            do="trove-pki bundle push --reason check --wait; then look at those that stay behind",
        )


def control_plane(seen: Snapshot, now: dt.datetime) -> Iterator[Finding]:
    for service in seen.services:
        name = services.short_name(service.name)
        end = time_of(service, "expire_time")
        start = seen.issue_times.get(service.serial)
        if end is not None and end <= now:
            yield error(
                "services",
                what=f"{name}'s certificate expired {times.ago(end, now)}",
                why="nobody talks to it any more",
                do="if the process is still wanted, `trove-pki service enrol` gives it a new one",
            )
        elif end is not None and start is not None and used(start, end, now) > _SERVICE_USED:
            yield warning(
                "services",
                what=f"{name} has used {used(start, end, now):.0%} of its certificate's life",
                why="it should have renewed at a third; it stops when it expires",
                do=f"read the log of {name}: it says why renewal failed",
            )
        seen_time = time_of(service, "last_seen_time")
        if seen_time is not None and now - seen_time > _SILENT and (end is None or end > now):
            yield warning(
                "services",
                what=f"{name} was last heard of {times.ago(seen_time, now)}",
                why="it asks every minute: it is down, or cut off, and its deny list grows stale",
                do=f"look whether {name} runs and reaches the issuer",
            )
        if service.held_bundle_version < seen.bundle.version:
            yield warning(
                "bundle",
                what=f"{name} holds bundle v{service.held_bundle_version}, not "
                f"v{seen.bundle.version}",
                why="a rotation waits for every service",
                do="it asks every minute; if this stays, read its log",
            )


def life(seen: Snapshot, now: dt.datetime) -> Iterator[Finding]:
    for authority in seen.authorities:
        certificate = authority.certificate
        if state_name(certificate.state) not in authorities.LIVE[:4]:
            continue
        facts = certificate_facts(certificate.certificate_pem)
        name = f"{kind_name(certificate.kind)} g{certificate.generation}"
        left = facts["expire_time"] - now
        if left <= dt.timedelta(0):
            yield error(
                "authorities",
                what=f"{name} has expired",
                why="everything it signed is refused",
                do="trove-pki rotate plan says what can still be done",
            )
        elif used(facts["start_time"], facts["expire_time"], now) > 1 - _LIFE_LEFT:
            kind = "root" if "root" in name else "intermediate"
            yield warning(
                "authorities",
                what=f"{name} has {times.span(left)} left, under a quarter of its life",
                why="what it signs cannot outlive it",
                do=f"trove-pki rotate plan {kind} {kind_name(certificate.kind)}",
            )


def stuck(seen: Snapshot, now: dt.datetime) -> Iterator[Finding]:
    for rotation in seen.rotations:
        since = time_of(rotation, "phase_time")
        name = rotation.rotation_id
        if rotation.is_paused:
            yield warning(
                "rotations",
                what=f"{name} is paused: {rotation.pause_reason}",
                why="it does not go on by itself; old and new generations stay side by side",
                do=f"trove-pki rotate resume {name}, or trove-pki rotate rollback {name}",
            )
        elif rotation.phase in waiting.GATES and not rotation.is_automatic:
            yield warning(
                "rotations",
                what=f"{name} is {waiting.phase_name(rotation.phase)} and waits for an operator",
                why="it does not go on by itself",
                do=f"trove-pki rotate advance {name}",
            )
        elif since is not None and now - _expected_end(rotation, since) > _STUCK:
            yield error(
                "rotations",
                what=f"{name} has been {waiting.phase_name(rotation.phase)} for "
                f"{times.span(now - since)}",
                why=rotation.next or "it should have gone on by itself",
                do=f"trove-pki rotate status {name} names who has not followed",
            )


def _expected_end(rotation: pb.Rotation, since: dt.datetime) -> dt.datetime:
    """When the phase should be over: holders renew until the window closes."""
    window_end = time_of(rotation.window, "end_time") if rotation.HasField("window") else None
    return max(since, window_end) if window_end is not None else since


def regions(seen: Snapshot, now: dt.datetime) -> Iterator[Finding]:
    for each in seen.federations:
        name = each.bundle.trust_domain
        refreshed = time_of(each.bundle, "refresh_time")
        if refreshed is not None and now - refreshed <= _REGION_AGE:
            continue
        since = "never" if refreshed is None else times.ago(refreshed, now)
        again = (
            f"trove-pki federation refresh {name}, from a timer"
            if each.endpoint_url
            else f"trove-pki federation add {name} --file FILE, with what it exports today"
        )
        yield warning(
            "federation",
            what=f"the bundle of {name}, another region: last refreshed {since}",
            why="a root that it has withdrawn since is still trusted, a new one is not yet",
            do=f"{again}; or trove-pki federation remove {name}",
        )


def diary(seen: Snapshot, now: dt.datetime) -> Iterator[Finding]:
    answer = seen.audit
    if answer.problem or answer.first_bad_sequence:
        yield error(
            "audit",
            what=f"the audit does not hold from row {answer.first_bad_sequence or '?'}: "
            f"{answer.problem}",
            why="somebody changed it, or an old backup was restored",
            do="trove-pki audit verify; keep the database as it is and compare exports",
        )
    checkpoint = (
        time_of(answer.last_checkpoint, "create_time")
        if answer.HasField("last_checkpoint")
        else None
    )
    if checkpoint is None:
        yield warning(
            "audit",
            what="there is no checkpoint of the audit",
            why="a shortened audit could not be told from a whole one",
            do="trove-pki audit checkpoint; then see why the issuer makes none",
        )
    elif now - checkpoint > _CHECKPOINT_AGE:
        yield warning(
            "audit",
            what=f"the last checkpoint was made {times.ago(checkpoint, now)}",
            why="what happened since could be removed unseen",
            do="trove-pki audit checkpoint; then see why the issuer makes none",
        )
