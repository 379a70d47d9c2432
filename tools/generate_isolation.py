"""Write docs/security/isolation.md: what is tried against a guest's walls, and what is left.

The attacks are those of tests/attacks, so the page cannot promise what nothing tries; a run's
verdicts are in build/attack-report.md. What remains possible is docs/security/remaining.md, which
people write.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.attacks.catalogue import THEMES  # noqa: E402  the path comes first
from tests.attacks.elsewhere import ELSEWHERE, LISTED  # noqa: E402

PAGE = ROOT / "docs" / "security" / "isolation.md"
REMAINING = ROOT / "docs" / "security" / "remaining.md"
_INTRODUCTION = """\
`make test-attacks` makes {count} attacks on a running installation: real processes, real TLS, a
guest that was taken over, a neighbour with a database. After each: nothing changed that is not the
attacker's own; a metric grew and, where a guest's call was refused, a row is in the audit; the
neighbour answered a command and is healthy; the answer held no secret, no path and no trace. A
run's verdicts, trails and figures are in `build/attack-report.md`."""
_WORDS = {
    "REFUSED": "the handshake fails",
    "CLOSED": "the connection is closed",
    "FORBIDDEN": "the kernel refuses",
    "DISTRUSTED": "the agent refuses its server",
    "ABSENT": "nothing is there",
    "HARMLESS": "no effect beyond the attacker's own",
    "OK": "no effect",
}


def render() -> str:
    lines = [
        "# What root in one guest cannot do, and what it still can",
        "",
        "<!-- written by tools/generate_isolation.py -->",
        "",
        _INTRODUCTION.format(count=sum(map(len, THEMES.values()))),
        "",
        "## What a compromised guest can still do",
        "",
        REMAINING.read_text().strip(),
        "",
    ]
    for theme, attacks in THEMES.items():
        lines += [
            f"## {theme[0].upper()}{theme[1:]}: {len(attacks)} attacks",
            "",
            "| attack | what it would give | what happens |",
            "|---|---|---|",
        ]
        lines += [
            f"| {_cell(attack.name)} | {_cell(attack.threat)} "
            f"| {_verdict(attack.expect, attack.reason)} |"
            for attack in attacks
        ]
        lines.append("")
    lines += [
        "## The design's list, case by case",
        "",
        "| case | where |",
        "|---|---|",
        *(f"| {number} | {_where(number)} |" for number in sorted(LISTED)),
        "",
    ]
    return "\n".join(lines)


def _verdict(expect: tuple[str, ...], reason: str) -> str:
    shown = " or ".join(dict.fromkeys(_WORDS.get(each, f"`{each}`") for each in expect))
    return f"{shown} {reason}" if reason and reason != expect[0] else shown


def _where(number: int) -> str:
    here = sum(number in attack.cases for attacks in THEMES.values() for attack in attacks)
    parts = [f"{here} above"] if here else []
    if number in ELSEWHERE:
        what, where = ELSEWHERE[number]
        parts.append(f"{what}: {where}")
    if not parts:
        raise SystemExit(f"case {number} is nowhere; say so in tests/attacks/elsewhere.py")
    return "; ".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="1 when the page is not fresh")
    options = parser.parse_args()
    page = render()
    if not options.check:
        PAGE.write_text(page)
        return 0
    if PAGE.read_text() == page:
        return 0
    print(f"{PAGE.relative_to(ROOT)} is stale; run tools/generate_isolation.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
