"""kill -9 anywhere: run the matrix and write a report.

    .venv/bin/python tests/chaos/run.py --report build/chaos-report.md

Every operation, every boundary of its steps, every process: each in a real installation. The
boundaries come from an undisturbed run of each operation the task manager has. Exit status 0
when every cell kept the promise.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # run as a script
    sys.path.insert(0, str(ROOT))

from tests.acceptance.engine_clients import CLIENTS  # noqa: E402
from tests.chaos import cell as cells  # noqa: E402
from tests.chaos import matrix, report  # noqa: E402
from tests.chaos.lane import Lane, NotAsPromisedError, lane, step_names  # noqa: E402
from tests.chaos.matrix import Cell, Slice  # noqa: E402
from tests.chaos.observer import Point  # noqa: E402

Steps = dict[str, Sequence[tuple[str, Point]]]
Say = Callable[[str], None]


def learn(on: Lane) -> Steps:
    """Every operation once in peace: its boundaries, in the order of an instance's life."""
    kinds = matrix.operations()
    order = [
        *(kind for kind in kinds if kind in matrix.MAKES),
        *(kind for kind in kinds if kind not in matrix.MAKES | matrix.ENDS),
        *(kind for kind in kinds if kind in matrix.ENDS),
    ]
    steps: Steps = {}
    instance_id = ""
    for kind in order:
        instance_id, points = on.undisturbed(kind, instance_id)
        if kind not in matrix.ENDS:
            on.plane.await_healthy(instance_id)
        steps[kind] = points
    return steps


def work(on: Lane, mine: Sequence[Cell], steps: Steps, say: Say) -> list[cells.Outcome]:
    """Run these cells one after the other on one installation."""
    outcomes: list[cells.Outcome] = []
    instance_id = ""
    for turn in matrix.in_turns(mine):
        for each in turn:
            if instance_id and each.operation in matrix.MAKES:
                cells.clean(on, instance_id)
                instance_id = ""
            if not instance_id and each.operation not in matrix.MAKES:
                instance_id, _ = on.undisturbed("create_instance", "")
                on.plane.await_healthy(instance_id)
            instance_id, outcome = cells.run(
                on, each, instance_id, step_names(steps[each.operation])
            )
            outcomes.append(outcome)
            verdict = f"FAILED  {outcome.failure}" if outcome.failure else "passed"
            say(f"{verdict:8} {outcome.seconds:5.1f} s  {each}  {outcome.note}".rstrip())
            if outcome.failure:
                say(on.plane.logs())
                # What it left would spoil those that follow.
                raise SpoiltError(outcomes)
    if instance_id:
        cells.clean(on, instance_id)
    return outcomes


class SpoiltError(Exception):
    """A cell failed; the rest of its lane goes on in a new installation."""

    def __init__(self, outcomes: list[cells.Outcome]) -> None:
        super().__init__(f"{outcomes[-1].cell}: {outcomes[-1].failure}")
        self.outcomes = outcomes


def run_lane(mine: Sequence[Cell], steps: Steps, datastore: str, say: Say) -> list[cells.Outcome]:
    """One lane to its end; a failed cell costs its installation, not the cells after it."""
    outcomes: list[cells.Outcome] = []
    while left := [each for each in mine if each not in {done.cell for done in outcomes}]:
        settings = cells.DOWN_SETTINGS if left[0].stays_down else {}
        alike = [each for each in left if each.stays_down == left[0].stays_down]
        try:
            with lane(datastore, **settings) as on:
                outcomes += work(on, alike, steps, say)
        except SpoiltError as spoilt:
            outcomes += spoilt.outcomes
        except Exception as error:
            # The installation itself: said once for the cell it was at, then a new one.
            say(f"FAILED  {alike[0]}: {type(error).__name__}: {error}")
            done = {each.cell for each in outcomes}
            at = next(each for each in alike if each not in done)
            outcomes.append(cells.Outcome(at, failure=f"{type(error).__name__}: {error}"))
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    began = time.monotonic()
    lock = threading.Lock()

    def say(line: str) -> None:
        with lock:
            print(line, flush=True)  # noqa: T201  a command line prints

    with lane(options.datastore) as on:
        try:
            steps = learn(on)
        except NotAsPromisedError as error:
            say(f"FAILED  {error}")
            return 1
    found = matrix.cells(steps)
    if options.stays_down:
        found += matrix.cells(steps, stays_down=True)
    found = [each for each in found if options.only in str(each)]
    whole = len(found)
    dealt = matrix.lanes(found, options.lanes, options.seed)
    dealt = [list(options.slice.of(mine)) for mine in dealt]
    if options.cells:
        dealt = [mine[: -(-options.cells // options.lanes)] for mine in dealt]
    say(f"seed {options.seed}: {sum(map(len, dealt))} of {whole} cells in {options.lanes} lanes")
    with futures.ThreadPoolExecutor(options.lanes) as pool:
        running = [
            pool.submit(run_lane, mine, steps, options.datastore, say) for mine in dealt if mine
        ]
        outcomes = [outcome for lane_ in running for outcome in lane_.result()]
    text = report.render(
        outcomes,
        whole=whole,
        seed=options.seed,
        lanes=options.lanes,
        datastore=options.datastore,
        seconds=time.monotonic() - began,
    )
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(text)
    failed = sum(bool(outcome.failure) for outcome in outcomes)
    say(f"{len(outcomes) - failed} passed, {failed} failed; report in {options.report}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, default=Path("build/chaos-report.md"))
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--lanes", type=int, default=2, help="installations at once")
    parser.add_argument("--cells", type=int, default=0, help="at most so many, by seed; 0: all")
    parser.add_argument(
        "--slice",
        type=Slice.parse,
        default=Slice(),
        help="2/3: the second of three parts, by seed",
    )
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--datastore", choices=sorted(CLIENTS), default="postgresql")
    parser.add_argument(
        "--no-stays-down", dest="stays_down", action="store_false", help="kills alone"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
