"""Four of the places where a rotation is killed; `make test-rotation-kills` has them all."""

import tempfile
from pathlib import Path

import pytest

from tests.rotation_kills.matrix import Case, kill_twice


@pytest.mark.parametrize(
    ("phase", "point"),
    [("KEYS", "effect"), ("KEY_CREATED", "effect"), ("READY", "effect"), ("SWITCHED", "after")],
)
def test_rotation_that_is_killed_twice_ends_as_if_nothing_had_happened(
    phase: str, point: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="trove-kill-") as name:
        case = Case(Path(name), f"sqlite:///{name}/pki.db")
        phases = list(kill_twice(case, phase, point))
        assert phases[-1] == "RETIRED"
        case.judge()
