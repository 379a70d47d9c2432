"""The report of a chaos run, as Markdown."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

from tests.chaos.cell import Outcome


def render(
    outcomes: Sequence[Outcome],
    *,
    whole: int,
    seed: int,
    lanes: int,
    datastore: str,
    seconds: float,
) -> str:
    """Summary, failures, then every cell."""
    failures = [outcome for outcome in outcomes if outcome.failure]
    lines = [
        "# kill -9 anywhere",
        "",
        (
            f"{len(outcomes) - len(failures)} of {len(outcomes)} cells passed "
            f"({whole} in the matrix), {len(failures)} failed. Seed {seed}, "
            f"datastore {datastore}, {lanes} installations at once, {os.cpu_count()} cores, "
            f"{seconds / 60:.1f} min."
        ),
        "",
        f"Repeat with `--seed {seed}`; one cell with `--only 'NAME'`.",
        "",
        "| process | cells | failed | longest restart, s | cell, median s | cell, longest s |",
        "|---|---|---|---|---|---|",
    ]
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(_process(outcome), []).append(outcome)
    for process, mine in sorted(groups.items()):
        lines.append(
            f"| {process} | {len(mine)} | {sum(bool(o.failure) for o in mine)} "
            f"| {max(o.restart_seconds for o in mine):.1f} "
            f"| {statistics.median(o.seconds for o in mine):.1f} "
            f"| {max(o.seconds for o in mine):.1f} |"
        )
    if failures:
        lines += ["", "## Failures"]
        for outcome in failures:
            lines += ["", f"### {outcome.cell}", "", "```", outcome.failure, "```"]
    lines += [
        "",
        "## Cells",
        "",
        "| operation | step | point | process | outcome | s | restart s | REST showed | note |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for outcome in sorted(outcomes, key=lambda each: each.cell):
        cell = outcome.cell
        note = outcome.note.replace("|", "/").replace("\n", " ")
        lines.append(
            f"| {cell.operation} | {cell.step} | {cell.point} | {_process(outcome)} "
            f"| {'FAILED' if outcome.failure else 'passed'} | {outcome.seconds:.1f} "
            f"| {outcome.restart_seconds:.1f} | {' '.join(outcome.statuses)} | {note} |"
        )
    return "\n".join(lines) + "\n"


def _process(outcome: Outcome) -> str:
    cell = outcome.cell
    return f"{cell.process} stays down" if cell.stays_down else cell.process
