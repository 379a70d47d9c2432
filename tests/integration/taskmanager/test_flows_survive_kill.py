"""A flow outlives kill -9 of its process: real DBOS, real databases, a real process."""

import collections
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("flow_process.py")
FLOWS = [f"flow-{number}" for number in range(4)]
STEPS = ["one", "two", "three", "four"]


class Runner:
    def __init__(self, folder: Path, database_url: str) -> None:
        self.database_url, self.effects = database_url, folder / "effects"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(self.command("e1"), stderr=subprocess.PIPE)
        return self.process

    def command(self, executor: str) -> list[str]:
        places = [self.database_url, str(self.effects)]
        return [sys.executable, str(SCRIPT), executor, *places, *FLOWS]

    def lines(self) -> list[str]:
        return self.effects.read_text().splitlines() if self.effects.exists() else []

    def wait_for(self, count: int, step: str) -> None:
        deadline = time.monotonic() + 60
        while sum(line.endswith(f" {step}") for line in self.lines()) < count:
            assert time.monotonic() < deadline, self.lines()
            time.sleep(0.02)

    def run(self) -> None:
        _, errors = self.start().communicate(timeout=90)
        assert self.process is not None
        assert self.process.returncode == 0, errors
        assert not errors, "a run without trouble logs no warning"

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture(params=["sqlite", "postgresql"])
def runner(request, tmp_path, database_servers):
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/flows.sqlite"
    else:
        url = database_servers(request.param).new_database()
    runner = Runner(tmp_path, url)
    yield runner
    runner.kill()


def test_every_flow_ends_after_kills_in_two_steps_and_no_finished_step_runs_again(runner):
    for step in ("two", "three"):
        hold = runner.effects.with_name(f"{step}.hold")
        hold.touch()
        runner.start()
        runner.wait_for(len(FLOWS), step)
        runner.kill()
        hold.unlink()
    runner.run()
    counts = collections.Counter(runner.lines())
    for flow in FLOWS:
        assert counts[f"{flow} end"] == 1
        assert counts[f"{flow} one"] == 1, "it was recorded before the first kill"
        # The step that was killed between effect and record runs again: effects need keys.
        assert counts[f"{flow} two"] == 2
        assert counts[f"{flow} three"] == 2
        assert counts[f"{flow} four"] == 1


def test_a_flow_submitted_twice_runs_once(runner):
    runner.run()
    runner.run()  # a third and fourth submission, after it has ended
    counts = collections.Counter(runner.lines())
    assert set(counts.values()) == {1}
    assert len(counts) == len(FLOWS) * (len(STEPS) + 1)


def test_a_second_process_under_the_same_name_is_refused_while_the_first_lives(runner):
    runner.effects.with_name("one.hold").touch()
    runner.start()
    runner.wait_for(1, "one")
    second = subprocess.run(
        runner.command("e1"),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert second.returncode != 0
    assert b"another task manager runs as executor 'e1'" in second.stderr


def test_another_executor_takes_over_once_the_first_is_dead_and_not_before(runner):
    hold = runner.effects.with_name("two.hold")
    hold.touch()
    runner.start()
    runner.wait_for(len(FLOWS), "two")
    second = subprocess.Popen(runner.command("e2"), stderr=subprocess.PIPE)
    try:
        # Alive, the first keeps its flows: the second only finds out that nothing is for it.
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(5)
        assert collections.Counter(runner.lines())["flow-0 two"] == 1
        runner.kill()
        runner.wait_for(2 * len(FLOWS), "two")
        hold.unlink()
        _, errors = second.communicate(timeout=90)
    finally:
        second.kill()
        second.communicate()
    assert second.returncode == 0
    assert b"executor e1 is dead; taking over its flows" in errors
    counts = collections.Counter(runner.lines())
    assert {counts[f"{flow} end"] for flow in FLOWS} == {1}
    assert {counts[f"{flow} one"] for flow in FLOWS} == {1}
