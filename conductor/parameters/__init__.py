"""The parameters that ship with the conductor: data, one file for each engine manager.

An administrator may add to them, change and remove them; what is shipped fills in names that were
never there, so that an administrator's word stays through an upgrade.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

TYPES = ("integer", "string", "boolean", "float")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What may stand in a configuration group under one name; bounds are included."""

    name: str
    type: str
    min: int | None = None
    max: int | None = None
    restart_required: bool = False


@functools.cache
def shipped(manager: str) -> Sequence[Rule]:
    """The rules for a manager; none for one that has no file."""
    file = resources.files(__package__).joinpath(f"{manager}.toml")
    if not file.is_file():
        return ()
    return tuple(
        Rule(name=name, **fields) for name, fields in tomllib.loads(file.read_text()).items()
    )
