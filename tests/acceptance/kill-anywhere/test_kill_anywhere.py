"""A handful of cells of the matrix in tests/chaos; `make test-chaos` runs the whole."""

from __future__ import annotations

import pytest

from tests.chaos import cell as cells
from tests.chaos import judge, matrix, run
from tests.chaos.lane import Lane, NotAsPromisedError, lane
from tests.chaos.matrix import PROCESSES, Cell
from tests.chaos.observer import Point

SEED = 20


def see_that_the_judge_can_tell(on: Lane) -> None:
    instance_id, _ = on.undisturbed("create_instance", "")
    judge.alive(on, instance_id)
    address = on.address_of(instance_id)
    with pytest.raises(NotAsPromisedError, match="GET of the deleted instance"):
        judge.gone(on, instance_id, address)
    with pytest.raises(NotAsPromisedError, match="guests"):
        judge.nothing_left(on, instance_id, address)
    on.undisturbed("delete_instance", instance_id)
    judge.gone(on, instance_id, address)
    with pytest.raises(AssertionError):
        judge.alive(on, instance_id)


def test_kill_9_of_each_process_at_a_step_boundary_changes_nothing():
    with lane() as on:
        steps = run.learn(on)
        (chosen,) = matrix.lanes(matrix.cells(steps), 1, SEED)
        first = chosen[: len(PROCESSES)]  # the processes take turns
        outcomes = run.work(on, first, steps, print)
        assert [outcome.failure for outcome in outcomes] == [""] * len(PROCESSES)
        assert {outcome.cell.process for outcome in outcomes} == set(PROCESSES)
        see_that_the_judge_can_tell(on)


def test_a_gateway_that_stays_down_ends_in_error_that_leaves_nothing():
    with lane(**cells.DOWN_SETTINGS) as on:
        down = Cell("create_instance", "await_agent", Point.START, "gateway", stays_down=True)
        instance_id, outcome = cells.run(on, down, "", [])
        assert not outcome.failure, f"{outcome.failure}\n{on.plane.logs()}"
        assert outcome.note.startswith("ERROR: ")
        assert instance_id == ""
