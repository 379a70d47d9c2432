"""What `trove-pki doctor` finds: what it is, why that matters, what to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How bad it is."""

    ERROR = "error"  # something does not work, or is not safe
    WARNING = "warning"  # something will not, unless somebody acts


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    level: Level
    check: str
    what: str
    why: str
    do: str


def error(check: str, *, what: str, why: str, do: str) -> Finding:
    return Finding(Level.ERROR, check, what, why, do)


def warning(check: str, *, what: str, why: str, do: str) -> Finding:
    return Finding(Level.WARNING, check, what, why, do)
