"""`trovectl up` as a process, with every process of the control plane."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trovectl import ports, procfs

UP_SECONDS = 120


def eventually(claim: Callable[[], object], seconds: float = UP_SECONDS) -> None:
    ends = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < ends, "did not become true in time"
        time.sleep(0.05)


class Up:
    """One state directory and the commands on it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.rest = f"127.0.0.1:{ports.choose(taken=set())}"
        self.children: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "trovectl", "up", "--state-dir", str(self.state)]
        child = subprocess.Popen(
            [*argv, "--rest-listen", self.rest, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
        )
        self.children.append(child)
        return child

    def ready(self) -> subprocess.Popen[str]:
        child = self.start()
        said = []
        for line in child.stdout:
            said.append(line)
            if line.startswith("ready:"):
                return child
        raise AssertionError("".join(said))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "trovectl", *arguments, "--state-dir", str(self.state)],
            capture_output=True,
            text=True,
            timeout=UP_SECONDS,
            check=False,
            cwd="/",
        )

    def status(self) -> dict[str, object]:
        done = self.run("status", "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def pids(self) -> dict[str, int]:
        return {each["name"]: each["pid"] for each in self.status()["processes"]}

    def left(self) -> list[list[str]]:
        return [procfs.arguments(process.pid) for process in procfs.under(self.state)]


@pytest.fixture
def up() -> Iterator[Up]:
    # Not tmp_path: pytest keeps that private, and as root other users must pass through.
    folder = Path(tempfile.mkdtemp(prefix="trove-up-"))
    folder.chmod(0o711)
    made = Up(folder / "state")
    yield made
    for child in made.children:
        if child.poll() is None:
            child.terminate()
        child.communicate(timeout=60)
    for process in procfs.under(made.state):
        procfs.send(process, signal.SIGKILL)
    shutil.rmtree(folder)


def test_every_process_is_ready_and_nothing_is_left_after_ctrl_c(up):
    child = up.ready()
    processes = up.status()["processes"]
    names = [each["name"] for each in processes]
    assert names == ["issuer", "conductor", "taskmanager", "gateway", "api"]
    assert all(each["ready"] and not each["restarts"] for each in processes)
    again = up.start()
    said, _ = again.communicate(timeout=UP_SECONDS)
    assert again.returncode == 1
    assert f"pid {child.pid}" in said
    os.kill(up.pids()["conductor"], signal.SIGKILL)
    eventually(
        lambda: (
            [each["restarts"] for each in up.status()["processes"] if each["ready"]]
            == [0, 1, 0, 0, 0]
        )
    )
    child.send_signal(signal.SIGINT)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 0, said
    assert up.left() == []
    assert up.run("status").returncode == 1
    assert "nothing runs" in up.run("down").stdout


def test_next_up_ends_what_a_killed_supervisor_left_and_keeps_its_ports(up):
    first = up.ready()
    before = up.status()["processes"]
    first.kill()
    first.wait(10)
    assert len(up.left()) >= 5
    second = up.ready()
    after = up.status()["processes"]
    assert [each["endpoints"] for each in after] == [each["endpoints"] for each in before]
    assert not {each["pid"] for each in after} & {each["pid"] for each in before}
    assert len(up.left()) == 5
    assert up.run("down").returncode == 0
    second.communicate(timeout=60)
    assert second.returncode == 0
    assert up.left() == []


def test_signal_during_the_start_leaves_nothing(up):
    child = up.start()
    for line in child.stdout:
        if line.startswith("conductor is ready"):
            break
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == 0
    assert up.left() == []


def test_taken_rest_port_is_an_error_that_names_the_process(up):
    host, _, port = up.rest.partition(":")
    with socket.create_server((host, int(port))):
        child = up.start()
        said, _ = child.communicate(timeout=UP_SECONDS)
    assert child.returncode == 1
    assert f"port {port}" in said
    assert f"pid {os.getpid()}" in said
    assert up.left() == []


def test_process_that_cannot_start_is_named_with_its_reason(up):
    child = up.start("--set", "conductor.no_such_setting=1")
    said, _ = child.communicate(timeout=UP_SECONDS)
    assert child.returncode == 1
    assert "the conductor did not become ready" in said
    assert "no_such_setting" in said
    assert up.left() == []


@pytest.mark.parametrize("setting", ["nonsense", "stranger.key=1", "conductor.key"])
def test_misspelt_setting_is_refused_before_anything_happens(up, setting):
    child = up.start("--set", setting)
    said, _ = child.communicate(timeout=UP_SECONDS)
    assert child.returncode == 2
    assert "PROCESS.SETTING=VALUE" in said


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives processes users of their own")
def test_private_place_is_refused_before_other_users_fail_in_it(up):
    up.state.parent.chmod(0o700)
    child = up.start()
    said, _ = child.communicate(timeout=UP_SECONDS)
    assert child.returncode == 1
    assert f"{up.state.parent} is private" in said
