"""docs/reference/metrics.md says what the processes register, no more and no less."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_metrics_reference_is_fresh():
    done = subprocess.run(
        [sys.executable, "tools/generate_metrics_reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
