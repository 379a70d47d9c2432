"""Every mutation still finds the line it breaks: one that does not would prove nothing."""

from __future__ import annotations

from pathlib import Path

from tests.mutations.run import MUTATIONS

ROOT = Path(__file__).parents[3]


def test_every_mutation_names_a_line_that_is_there():
    assert len(MUTATIONS) > 100
    stale = [each.promise for each in MUTATIONS if each.old not in (ROOT / each.file).read_text()]
    assert stale == []
