"""Two executors on one flow log: a suspended one, and a database that goes away."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import time

import pytest

from tests.fakes.database_servers import database_server
from tests.integration.taskmanager.flow_process import LEASE
from tests.integration.taskmanager.test_flows_survive_kill import FLOWS, STEPS, Runner

# `make test-state` takes ten minutes for it.
OUTAGE_SECONDS = float(os.environ.get("TROVE_TEST_OUTAGE_SECONDS", "10"))


class TwoExecutors(Runner):
    """The same flows submitted by two processes."""

    def __init__(self, folder, database_url: str) -> None:
        super().__init__(folder, database_url)
        self.second: subprocess.Popen[bytes] | None = None

    def start_second(self) -> subprocess.Popen[bytes]:
        self.second = subprocess.Popen(self.command("e2"), stderr=subprocess.PIPE)
        return self.second

    def kill(self) -> None:
        super().kill()
        if self.second is not None and self.second.returncode is None:
            self.second.kill()
            self.second.communicate()


@pytest.fixture
def server():
    with database_server("postgresql") as server:
        yield server


@pytest.fixture
def two(tmp_path, server):
    runner = TwoExecutors(tmp_path, server.new_database())
    yield runner
    runner.kill()


def test_suspended_executor_loses_its_flows_and_starts_no_step_of_them_when_it_wakes(two):
    hold = two.effects.with_name("two.hold")
    hold.touch()
    first = two.start()
    two.wait_for(len(FLOWS), "two")
    first.send_signal(signal.SIGSTOP)
    second = two.start_second()
    two.wait_for(2 * len(FLOWS), "two")
    hold.unlink()
    _, errors = second.communicate(timeout=90)
    assert second.returncode == 0, errors
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=90)
    assert first.returncode == 0, errors
    counts = collections.Counter(two.lines())
    for flow in FLOWS:
        assert counts[f"{flow} two"] == 2, "it was suspended inside of it"
        for step in ("one", "three", "four", "end"):
            assert counts[f"{flow} {step}"] == 1, (flow, step)


def test_outage_of_the_database_loses_and_doubles_nothing(two, server):
    hold = two.effects.with_name("two.hold")
    hold.touch()
    first, second = two.start(), two.start_second()
    two.wait_for(len(FLOWS), "two")
    server.stop()
    hold.unlink()  # the steps end while nobody can record it
    time.sleep(OUTAGE_SECONDS)
    for process in (first, second):
        assert process.poll() is None, process.communicate()[1]
    server.start()
    for process in (first, second):
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
    counts = collections.Counter(two.lines())
    assert LEASE.total_seconds() < OUTAGE_SECONDS
    for flow in FLOWS:
        for step in (*STEPS, "end"):
            assert counts[f"{flow} {step}"] == 1, (flow, step)
