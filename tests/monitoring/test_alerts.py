"""The alert rules: promtool finds them right, and every metric they name exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docs" / "monitoring" / "alerts.yml"
TESTS = Path(__file__).with_name("alerts_test.yml")


@pytest.fixture(scope="module")
def promtool() -> str:
    done = subprocess.run(
        [str(ROOT / "tools" / "setup-promtool")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_rules_are_well_formed_and_alarm_when_they_should(promtool):
    for arguments in (("check", "rules", str(RULES)), ("test", "rules", str(TESTS))):
        done = subprocess.run(
            [promtool, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried_silent_and_loud():
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    tried = re.findall(r"alertname: (\w+)", TESTS.read_text())
    assert len(alerts) > 10
    assert {name: tried.count(name) for name in alerts} == dict.fromkeys(alerts, 2)


def test_every_metric_of_the_rules_is_in_the_reference():
    named = set(re.findall(r"trove_\w+", RULES.read_text()))
    reference = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert {name for name in named if f"`{name}`" not in reference} == set()
