"""One installation serves the scenarios that leave it whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.installation import Installation, installation


@pytest.fixture(scope="session")
def shared() -> Iterator[Installation]:
    with installation() as made:
        yield made
