"""Every place where a rotation can be killed, twice in a row; `make test-rotation-kills`."""

import tempfile
from pathlib import Path

import pytest

from tests.rotation_kills.matrix import CASES, Case, kill_twice


@pytest.mark.parametrize(("phase", "point"), CASES)
def test_root_rotation_that_is_killed_twice_ends_well(phase: str, point: str) -> None:
    with tempfile.TemporaryDirectory(prefix="trove-kill-") as name:
        case = Case(Path(name), f"sqlite:///{name}/pki.db")
        phases = list(kill_twice(case, phase, point))
        assert phases[-1] == "RETIRED"
        case.judge()
