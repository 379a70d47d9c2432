"""Which cells there are: operation by boundary of a step by process, and in which order."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence

from taskmanager.__main__ import OPERATIONS
from tests.chaos.observer import Point
from trovectl.plane import NAMES

AGENT = "agent"
PROCESSES = (*NAMES, AGENT)
# By kind: whether the operation begins without an instance, and ends without one.
MAKES = frozenset({"create_instance"})
ENDS = frozenset({"delete_instance"})
# Begun by administrators alone, of whom an installation without authentication has none.
ADMINISTRATORS = frozenset({"stop_instance"})


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Cell:
    """Kill `process` when `operation` is at `point` of `step`."""

    operation: str
    step: str
    point: Point
    process: str
    # Not only killed: kept down until the operation has given up, or was seen to wait.
    stays_down: bool = False

    def __str__(self) -> str:
        down = " stays down" if self.stays_down else ""
        return f"{self.operation}/{self.step}/{self.point} {self.process}{down}"


def operations() -> tuple[str, ...]:
    """Every operation the task manager has, by its own table, that a user can begin."""
    return tuple(kind for kind in OPERATIONS if kind not in ADMINISTRATORS)


def cells(
    steps: dict[str, Sequence[tuple[str, Point]]], *, stays_down: bool = False
) -> list[Cell]:
    """Every cell for the boundaries each operation was seen to have."""
    found = [
        Cell(operation, step, point, process, stays_down)
        for operation, points in steps.items()
        for step, point in points
        for process in PROCESSES
        if not stays_down or (point is Point.START)
    ]
    return [cell for cell in found if _has_process(cell, steps)]


def _has_process(cell: Cell, steps: dict[str, Sequence[tuple[str, Point]]]) -> bool:
    """An agent can be killed once its guest was booted, and until it is removed."""
    if cell.process != AGENT:
        return True
    place = steps[cell.operation].index((cell.step, cell.point))
    if cell.operation in MAKES:
        return place >= steps[cell.operation].index(("boot_guest", Point.END))
    if cell.operation in ENDS:
        return place < steps[cell.operation].index(("remove_guest", Point.END))
    return True


def lanes(found: Iterable[Cell], count: int, seed: int) -> list[list[Cell]]:
    """Shuffle by seed and deal out; in each lane the processes take turns.

    In turns, because the supervisor pauses longer before each restart of a process that dies
    often within a minute, as it should.
    """
    rng = random.Random(seed)  # noqa: S311  an order that can be repeated
    by_process: dict[str, list[Cell]] = {}
    for cell in sorted(found):
        by_process.setdefault(cell.process, []).append(cell)
    dealt: list[list[Cell]] = []
    for group in by_process.values():
        rng.shuffle(group)
    while any(by_process.values()):
        dealt.append([group.pop() for group in by_process.values() if group])
    made: list[list[Cell]] = [[] for _ in range(count)]
    for number, round_ in enumerate(dealt):
        made[number % count].extend(round_)
    return made


@dataclasses.dataclass(frozen=True, slots=True)
class Slice:
    """The n-th of so many parts of each lane: a matrix in instalments, repeatable by its seed."""

    number: int = 1
    parts: int = 1

    @classmethod
    def parse(cls, text: str) -> Slice:
        """From "2/3"; raises ValueError."""
        number, _, parts = text.partition("/")
        found = cls(int(number), int(parts))
        if not 1 <= found.number <= found.parts:
            raise ValueError(f"slice {text!r}: write 1/3, 2/3 or 3/3 for a third each")
        return found

    def of(self, mine: Sequence[Cell]) -> Sequence[Cell]:
        return mine[
            len(mine) * (self.number - 1) // self.parts : len(mine) * self.number // self.parts
        ]


def in_turns(found: Sequence[Cell]) -> list[list[Cell]]:
    """Rounds of an instance's life: what makes one, what is done to it, what ends it."""
    makes = [cell for cell in found if cell.operation in MAKES]
    ends = [cell for cell in found if cell.operation in ENDS]
    uses = [cell for cell in found if cell.operation not in MAKES | ENDS]
    rounds = max(len(makes), len(ends), -(-len(uses) // 4))
    return [[*makes[n : n + 1], *uses[n::rounds], *ends[n : n + 1]] for n in range(rounds)]
