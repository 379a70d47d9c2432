"""The report of a run: build/attack-report.json for machines, .md for people."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from tests.attacks.case import Outcome

BUILD = Path(__file__).resolve().parents[2] / "build"


def write(outcomes: Sequence[Outcome], notes: Sequence[str]) -> None:
    BUILD.mkdir(exist_ok=True)
    rows = [dataclasses.asdict(outcome) for outcome in outcomes]
    content = {"attacks": rows, "figures": list(notes)}
    (BUILD / "attack-report.json").write_text(json.dumps(content, indent=1) + "\n")
    (BUILD / "attack-report.md").write_text(render(outcomes, notes))


def render(outcomes: Sequence[Outcome], notes: Sequence[str]) -> str:
    failed = [each for each in outcomes if each.failure]
    seconds = sum(each.seconds for each in outcomes)
    lines = [
        "# Attacks",
        "",
        (
            f"{len(outcomes) - len(failed)} of {len(outcomes)} attacks came to nothing, "
            f"{len(failed)} did not. {seconds:.0f} s, {os.cpu_count()} cores. After each: nothing "
            "changed that is not the attacker's own, the trail was there, the neighbour was "
            "served, the answer held no secret and no trace."
        ),
        "",
    ]
    for outcome in failed:
        lines += [f"- **{outcome.name}**: {outcome.failure[:500]}", ""]
    if notes:
        lines += ["## Figures", "", *(f"- {note}" for note in notes), ""]
    for theme in dict.fromkeys(each.theme for each in outcomes):
        lines += [
            f"## {theme}",
            "",
            "| attack | answer | trail | s |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {each.name} | {each.verdict} {each.reason} | {each.trail} | {each.seconds:.1f} |"
            for each in outcomes
            if each.theme == theme
        ]
        lines.append("")
    return "\n".join(lines)
