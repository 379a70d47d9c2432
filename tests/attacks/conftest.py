"""One installation serves every attack, and the report is written when the last has run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.installation import installation
from tests.attacks import report
from tests.attacks.case import Outcome
from tests.attacks.scene import SETTINGS, Scene


@pytest.fixture(scope="session")
def scene() -> Iterator[Scene]:
    with installation(**SETTINGS) as plane:
        made = Scene(plane)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="session")
def outcomes(scene: Scene) -> Iterator[list[Outcome]]:
    """What became of each attack; written to build/ at the end."""
    collected: list[Outcome] = []
    yield collected
    report.write(collected, scene.notes)
