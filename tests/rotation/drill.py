"""A root is rotated under everybody, the issuer killed once at every step, and nobody notices.

Watched from where it would hurt: each agent's streams in its own process, the time between its
reports in the database of record, each tenant's session and each newcomer's handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.installation import Installation
from tests.fleet.fleet import ControlPlane, Spread, until
from tests.rotation import scene
from tests.rotation.queries import Newcomers, Tally, sessions
from tests.rotation.streams import WatchedAgent
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as pb
from trovectl import procfs

_POLL = 0.1
_REPORT_PAUSE = 0.5
# Longer than a heartbeat may be late: changes must not hide that one is missing.
_CHANGE_PAUSE = 7.0
_ENDED = frozenset(
    {
        pb.ROTATION_PHASE_RETIRED,
        pb.ROTATION_PHASE_ABORTED,
        pb.ROTATION_PHASE_ROLLED_BACK,
    }
)
# What an operator's patience would be; the drill's own times are far below.
_ROTATION_SECONDS = 900
# A heartbeat may be late by this much on top of its interval, seconds (the promise).
HEARTBEAT_SLACK = 1.0


@dataclass(slots=True)
class Report:
    """What was seen. Times in seconds."""

    agents: int
    heartbeat_interval: float
    engines: dict[str, int] = field(default_factory=dict)  # process id of each engine
    rotations: list[str] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)  # kills in each
    seconds: float = 0.0
    streams_opened: int = 0
    leaves: int = 0
    handovers: int = 0
    gaps: list[str] = field(default_factory=list)
    breaks: list[str] = field(default_factory=list)
    too_many_closes: list[str] = field(default_factory=list)
    report_gap: Spread | None = None
    changes: int = 0
    lost_changes: int = 0
    queries: int = 0
    sessions: int = 0
    failed_queries: list[str] = field(default_factory=list)
    changed_backends: list[str] = field(default_factory=list)
    newcomers: int = 0
    refused_newcomers: list[str] = field(default_factory=list)
    old_generations: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Every broken promise, one line each."""
        found = [f"an agent without any stream: {each}" for each in self.gaps]
        found += [f"a stream that broke: {each}" for each in self.breaks]
        found += [f"more planned closes than leaves: {each}" for each in self.too_many_closes]
        found += [f"a failed query: {each}" for each in self.failed_queries]
        found += [f"another backend: {each}" for each in self.changed_backends]
        found += [f"a newcomer was refused: {each}" for each in self.refused_newcomers]
        found += [f"still of the old generation: {each}" for each in self.old_generations]
        if self.lost_changes:
            found.append(f"{self.lost_changes} reports lost")
        limit = self.heartbeat_interval + HEARTBEAT_SLACK
        if self.report_gap is None or self.report_gap.high > limit:
            found.append(f"reports {self.report_gap} s apart, promised {limit:g}")
        return found

    def markdown(self) -> str:
        kills = ", ".join(f"{phase} {count}" for phase, count in self.phases.items())
        rows = [
            ("rotations", ", ".join(self.rotations)),
            ("seconds for all of them", f"{self.seconds:.0f}"),
            ("kill -9 of the issuer, by phase", kills),
            ("streams opened / leaves / planned closes", self._streams()),
            ("moments without a stream", str(len(self.gaps))),
            ("streams broken", str(len(self.breaks))),
            ("between two reports of one agent, min / median / max s", str(self.report_gap)),
            ("changes told / lost", f"{self.changes} / {self.lost_changes}"),
            ("database sessions / queries / failed", self._queries()),
            ("backends changed", str(len(self.changed_backends))),
            ("new connections / refused", f"{self.newcomers} / {len(self.refused_newcomers)}"),
        ]
        lines = [
            f"# Rotation under {self.agents} agents and {len(self.engines)} engines",
            "",
            (
                f"{os.cpu_count()} cores for everything together, load {os.getloadavg()[0]:.1f} "
                f"at the end; heartbeats every {self.heartbeat_interval:g} s."
            ),
            "",
            "| what | seen |",
            "|---|---|",
            *(f"| {what} | {seen} |" for what, seen in rows),
            "",
            *(
                ["## Broken promises", "", *self.problems]
                if self.problems
                else ["No promise broken."]
            ),
        ]
        return "\n".join(lines) + "\n"

    def _streams(self) -> str:
        return f"{self.streams_opened} / {self.leaves} / {self.handovers}"

    def _queries(self) -> str:
        return f"{self.sessions} / {self.queries} / {len(self.failed_queries)}"


async def drill(
    plane: Installation,
    *,
    agents: int,
    databases: dict[str, dict[str, object]],
    sessions_each: int,
    authorities: tuple[trust_pb2.AuthorityKind.ValueType, ...],
    folder: Path,
) -> Report:
    """Rotate these roots one after the other; the report says what it was like."""
    hosts = {engine: view["ip"][0] for engine, view in databases.items()}  # type: ignore[index]
    old_root, both_roots = folder / "old.pem", folder / "both.pem"
    old_root.write_bytes(scene.database_roots(plane))
    async with scene.fleet(plane, agents) as fleet:
        report = Report(agents=agents, heartbeat_interval=_interval(fleet))
        report.engines = {engine: _server(plane, view) for engine, view in databases.items()}
        gaps: list[float] = []
        stop = asyncio.Event()
        with sessions(hosts, old_root, each=sessions_each, pause=0.05) as loops:
            newcomers = Newcomers(
                hosts, {"the old root": old_root, "both roots": both_roots}, pause=1.0
            )
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_measure_gaps(plane, fleet, gaps, stop))
                    group.create_task(_tell_changes(fleet, stop))
                    group.create_task(_follow_roots(plane, both_roots, stop))
                    try:
                        await _rotate_all(plane, authorities, report)
                        await _settle(fleet)
                    finally:
                        stop.set()
            finally:
                newcomers.stop()
            tallies = [loop.stop() for loop in loops]
        _count_streams(fleet, report)
        report.report_gap = Spread.of(gaps)
        _count_queries(tallies, newcomers, report)
        for engine, view in databases.items():
            if (pid := _server(plane, view)) != report.engines[engine]:
                report.changed_backends.append(f"{engine} {report.engines[engine]} -> {pid}")
    return report


async def _rotate_all(
    plane: Installation,
    authorities: tuple[trust_pb2.AuthorityKind.ValueType, ...],
    report: Report,
) -> None:
    issuer = scene.Issuer(plane)
    began = time.monotonic()
    for authority in authorities:
        rotation_id = await issuer.start_rotation(pb.ROTATION_KIND_ROOT, authority)
        ended = await _interrupt_each_phase(issuer, rotation_id, report)
        name = trust_pb2.AuthorityKind.Name(authority).removeprefix("AUTHORITY_KIND_")
        report.rotations.append(f"{name.lower().replace('_', '-')} {rotation_id}")
        assert ended.phase == pb.ROTATION_PHASE_RETIRED, ended
    report.seconds = time.monotonic() - began


async def _interrupt_each_phase(
    issuer: scene.Issuer, rotation_id: str, report: Report
) -> pb.Rotation:
    """Kill the issuer once in each phase, as soon as the rotation is seen in it."""
    ends = time.monotonic() + _ROTATION_SECONDS
    killed: set[int] = set()
    while True:
        rotation = (await issuer.rotation(rotation_id)).rotation
        if rotation.phase in _ENDED:
            return rotation
        assert not rotation.is_paused, rotation
        assert time.monotonic() < ends, rotation
        if rotation.phase not in killed:
            killed.add(rotation.phase)
            await issuer.kill()
            name = pb.RotationPhase.Name(rotation.phase).removeprefix("ROTATION_PHASE_")
            report.phases[name] += 1
        await asyncio.sleep(_POLL)


async def _measure_gaps(
    plane: Installation, fleet: list[WatchedAgent], gaps: list[float], stop: asyncio.Event
) -> None:
    """The time between any two reports of one agent, by the clock of who takes them in.

    A look is shorter than a heartbeat's interval, so that none is missed between two looks.
    """
    control = ControlPlane(plane)
    watched = {agent.instance_id for agent in fleet}
    known = await control.report_times(watched)

    async def look() -> None:
        now = await control.report_times(watched)
        for name, moment in now.items():
            if moment > known[name]:
                gaps.append((moment - known[name]).total_seconds())
        known.update(now)

    await scene.every(_REPORT_PAUSE, stop, look)
    latest = max(known.values())
    gaps += [(latest - moment).total_seconds() for moment in known.values()]


async def _tell_changes(fleet: list[WatchedAgent], stop: asyncio.Event) -> None:
    async def tell() -> None:
        for agent in fleet:
            agent.tell_something()
            await asyncio.sleep(0)

    await scene.every(_CHANGE_PAUSE, stop, tell)


async def _follow_roots(plane: Installation, both_roots: Path, stop: asyncio.Event) -> None:
    """Once tenants are told of two roots, some of them hold both."""

    async def look() -> None:
        now = await asyncio.to_thread(scene.database_roots, plane)
        if now.count(b"BEGIN") > 1 and not both_roots.exists():
            written = both_roots.with_suffix(".tmp")
            written.write_bytes(now)
            written.rename(both_roots)

    await scene.every(1.0, stop, look)


async def _settle(fleet: list[WatchedAgent]) -> None:
    """Every handover over, every change acknowledged; what is not shows in the report."""
    with contextlib.suppress(AssertionError):
        await until(
            lambda: all(agent.watch.live == 1 for agent in fleet), "one stream for each", within=30
        )
        await until(
            lambda: all(agent.outbox.unacknowledged == 0 for agent in fleet),
            "every change acknowledged",
            within=30,
        )


def _count_streams(fleet: list[WatchedAgent], report: Report) -> None:
    for agent in fleet:
        watch = agent.watch
        report.streams_opened += watch.opened
        report.leaves += len(watch.serials)
        report.handovers += watch.handovers
        report.changes += watch.changes
        report.lost_changes += watch.changes - len(agent.acknowledged)
        report.gaps += [f"{agent.instance_id} for {_length(gap)}" for gap in watch.gaps]
        report.breaks += [f"{agent.instance_id}: {why}" for why in watch.breaks]
        if watch.live != 1:
            report.breaks.append(f"{agent.instance_id} has {watch.live} streams at the end")
        if watch.handovers > len(watch.serials) - 1:
            report.too_many_closes.append(
                f"{agent.instance_id}: {watch.handovers} for {len(watch.serials)} leaves"
            )


def _length(gap: tuple[float, float | None]) -> str:
    began, ended = gap
    return "ever since" if ended is None else f"{ended - began:.3f} s"


def _count_queries(tallies: list[Tally], newcomers: Newcomers, report: Report) -> None:
    report.sessions = len(tallies)
    report.queries = sum(tally.queries for tally in tallies)
    report.newcomers = newcomers.connections
    report.refused_newcomers = newcomers.failures
    for tally in tallies:
        report.failed_queries += [f"{tally.engine}: {why}" for why in tally.failures]
        if not tally.queries:
            report.failed_queries.append(f"{tally.engine}: a session never asked")
        if len(tally.backends) > 1:
            report.changed_backends.append(f"{tally.engine}: {sorted(tally.backends)}")


def _interval(fleet: list[WatchedAgent]) -> float:
    return max(agent.heartbeat_seconds for agent in fleet)


_PROGRAMS = {"postgresql": "/postgres", "mariadb": "/mariadbd", "redis": "redis-server"}


def _server(plane: Installation, view: dict[str, object]) -> int:
    """The process id of an instance's engine; PostgreSQL's is the one with arguments."""
    engine = view["datastore"]["type"]  # type: ignore[index]
    (found,) = (
        process.pid
        for process in procfs.under(plane.state / "guests" / str(view["id"]))
        if _PROGRAMS[engine] in "".join(procfs.arguments(process.pid)[:1])
        and (engine != "postgresql" or "-D" in procfs.arguments(process.pid))
    )
    return found
