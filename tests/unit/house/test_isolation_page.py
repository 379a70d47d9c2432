"""docs/security/isolation.md names the attacks there are, and each case of the design's list."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.attacks.catalogue import THEMES

ROOT = Path(__file__).parents[3]


def test_the_page_is_fresh():
    done = subprocess.run(
        [sys.executable, "tools/generate_isolation.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_two_attacks_have_one_name():
    names = [(theme, attack.name) for theme, attacks in THEMES.items() for attack in attacks]
    assert len(names) == len(set(names))


def test_make_test_runs_some_attacks_of_every_theme():
    for theme, attacks in THEMES.items():
        assert any(attack.smoke for attack in attacks), theme
