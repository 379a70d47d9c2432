"""`trovectl doctor`: what is wrong with an installation, why that matters, and what to do.

Looks and changes nothing. What runs is asked, what lies on disk is read; when nothing runs, it
says so and reads the disk all the same.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path

from trove_grpc.errors import TroveError
from trovectl import diagnosis, inspection, lock
from trovectl.client import Installation
from trovectl.findings import Finding, Level, error
from trovectl.layout import Layout


async def examine(state: Path, *, now: dt.datetime) -> list[Finding]:
    """Everything that is found, the worst first."""
    places = Layout(state)
    if not state.is_dir():
        return [
            error(
                "installation",
                what=f"there is nothing in {state}",
                why="no installation was started there",
                do=f"trovectl up --state-dir {state}, or name another with --state-dir",
            )
        ]
    found = [
        *inspection.permissions(places),
        *inspection.disk(places),
        *inspection.clock(places, now),
        *inspection.authorities(places, now),
    ]
    if _is_running(places):
        found += inspection.certificates(places, now)
        found += await _ask(Installation(state), places, now)
    else:
        # Their certificates are seen to when they start.
        found += inspection.taken_ports(places)
        found.append(
            error(
                "processes",
                what=f"nothing runs in {state}",
                why="no database can be created or changed, and local ones are down",
                do=f"trovectl up --state-dir {state}",
            )
        )
    return sorted(found, key=lambda finding: (finding.level is not Level.ERROR, finding.check))


def render(found: Sequence[Finding], *, as_json: bool) -> str:
    """For people, or for scripts."""
    if as_json:
        return json.dumps([dataclasses.asdict(finding) for finding in found], indent=2)
    if not found:
        return "nothing wrong was found"
    return "\n\n".join(
        f"{finding.level.upper()}  {finding.check}: {finding.what}\n"
        f"  why: {finding.why}\n"
        f"  do:  {finding.do}"
        for finding in found
    )


def _is_running(places: Layout) -> bool:
    try:
        return lock.holder_of(places.lock) != 0
    except PermissionError:
        return False  # said by `permissions`


async def _ask(installation: Installation, places: Layout, now: dt.datetime) -> list[Finding]:
    """What the supervisor and the conductor know; who does not answer is a finding too."""
    try:
        found = list(diagnosis.processes(await installation.processes(), places))
        local = await installation.guests()
    except TroveError as problem:
        return [
            error(
                "processes",
                what=f"the supervisor does not answer: {problem.message}",
                why="nothing restarts what dies",
                do=f"read the last lines of {places.log('supervisor')}",
            )
        ]
    try:
        instances = await installation.instances()
        found += diagnosis.guests(local, instances, places)
        found += diagnosis.instances(instances, now, places)
        found += diagnosis.open_operations(await installation.open_operations(), now)
        for instance in instances:
            if instance.status == "ERROR":
                newest = (await installation.operations(instance.id))[:1]
                found += diagnosis.stuck_operations(newest)
    except TroveError as problem:
        found.append(
            error(
                "processes",
                what=f"the conductor does not answer: {problem.message}",
                why="nothing is known about instances and operations",
                do=f"read the last lines of {places.log('conductor')}",
            )
        )
    return found
