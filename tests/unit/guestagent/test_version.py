"""The version an agent tells is the one that was built."""

from __future__ import annotations

import tomllib
from pathlib import Path

import guestagent


def test_the_agents_version_is_the_distributions():
    project = Path(guestagent.__file__).parents[1] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == guestagent.__version__
