"""The matrix is whole, the same for the same seed, and covers what the task manager has."""

from __future__ import annotations

import pytest

from taskmanager.__main__ import OPERATIONS
from tests.chaos import matrix
from tests.chaos.observer import FINISH, Moment, Point, Trap, boundaries


def passed(operation_id: str, *steps: str) -> list[Moment]:
    """The journal of an undisturbed operation."""
    found = []
    for step in steps:
        found += [Moment(operation_id, step, "RUNNING"), Moment(operation_id, step, "SUCCEEDED")]
    return [
        *found,
        Moment(operation_id, "finish", "SUCCEEDED"),
        Moment(operation_id, FINISH, "SUCCEEDED"),
    ]


def steps():
    create = passed("a", "allocate_address", "boot_guest", "await_agent")
    delete = passed("b", "remove_guest", "retire_identity")
    return {
        "create_instance": list(boundaries(create + delete, "a")),
        "delete_instance": list(boundaries(create + delete, "b")),
    }


def test_every_operation_of_the_task_manager_is_in_the_matrix():
    assert set(matrix.operations()) | matrix.ADMINISTRATORS == set(OPERATIONS)


def test_each_step_has_a_start_an_end_and_a_record():
    assert steps()["delete_instance"] == [
        ("remove_guest", Point.START),
        ("remove_guest", Point.END),
        ("remove_guest", Point.RECORDED),
        ("retire_identity", Point.START),
        ("retire_identity", Point.END),
        ("retire_identity", Point.RECORDED),
        ("finish", Point.END),
        ("finish", Point.RECORDED),
        (FINISH, Point.END),
        (FINISH, Point.RECORDED),
    ]


def test_an_agent_is_killed_only_while_there_is_one():
    found = matrix.cells(steps())
    killed = {(cell.operation, cell.step) for cell in found if cell.process == "agent"}
    assert ("create_instance", "allocate_address") not in killed
    assert ("create_instance", "await_agent") in killed
    assert ("delete_instance", "remove_guest") in killed
    assert ("delete_instance", "retire_identity") not in killed


def test_every_other_process_dies_at_every_boundary():
    found = matrix.cells(steps())
    for process in ("issuer", "conductor", "taskmanager", "gateway", "api"):
        assert sum(cell.process == process for cell in found) == 13 + 10


def test_lanes_hold_every_cell_once_and_repeat_with_their_seed():
    found = matrix.cells(steps()) + matrix.cells(steps(), stays_down=True)
    dealt = matrix.lanes(found, 3, seed=5)
    assert sorted(cell for lane in dealt for cell in lane) == sorted(found)
    assert dealt == matrix.lanes(found, 3, seed=5)
    assert dealt != matrix.lanes(found, 3, seed=6)


def test_slices_hold_every_cell_once():
    (mine,) = matrix.lanes(matrix.cells(steps()), 1, seed=5)
    parts = [matrix.Slice.parse(f"{number}/3").of(mine) for number in (1, 2, 3)]
    assert [cell for part in parts for cell in part] == mine


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", ""])
def test_slice_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"slice|invalid literal"):
        matrix.Slice.parse(text)


def test_turns_hold_every_cell_once():
    found = matrix.cells(steps())
    assert sorted(cell for turn in matrix.in_turns(found) for cell in turn) == sorted(found)


def test_a_trap_holds_only_its_own_boundary_and_once():
    trap = Trap("boot_guest", Point.END)
    trap.release(lost=True)
    held = Trap("boot_guest", Point.END)
    assert not held.hold(Moment("a", "boot_guest", "RUNNING"), before=True)
    assert not held.hold(Moment("a", "boot_guest", "SUCCEEDED"), before=False)
    assert not held.hold(Moment("a", "await_agent", "SUCCEEDED"), before=True)
    assert not held.reached.is_set()
    assert not trap.hold(Moment("a", "boot_guest", "SUCCEEDED"), before=True)
