"""What `make demo` runs: cut in the middle by kill -9, then whole, then once more."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.acceptance.installation import eventually
from trovectl import lock, ports, procfs
from trovectl.layout import Layout


@pytest.fixture
def state():
    folder = Path(tempfile.mkdtemp(prefix="trove-demo-test-"))
    folder.chmod(0o711)
    # The demo keeps to the port of its last run; ours is not the fixed one.
    rest = f"127.0.0.1:{ports.choose(taken=set())}"
    (folder / "demo.json").write_text(json.dumps({"rest": rest}))
    yield folder
    for process in procfs.under(folder):
        procfs.send(process, signal.SIGKILL)
    if supervisor := lock.holder_of(Layout(folder).lock):
        os.kill(supervisor, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def demo(state: Path) -> list[str]:
    return [sys.executable, "-m", "trovectl", "demo", "--state-dir", str(state)]


def kill_tree(child: subprocess.Popen[str], state: Path) -> None:
    supervisor = lock.holder_of(Layout(state).lock)
    assert supervisor
    os.kill(supervisor, signal.SIGKILL)
    child.kill()
    child.wait(10)

    def none_left() -> bool:
        left = procfs.under(state)
        for process in left:
            procfs.send(process, signal.SIGKILL)
        return not left

    eventually(none_left, "the whole tree killed")


def test_it_works_after_kill_9_of_a_first_one_and_again_and_leaves_nothing(state):
    with subprocess.Popen(
        demo(state), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/"
    ) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if "prepare_engine" in line:
                break
        else:
            pytest.fail("the first demo never prepared an engine")
        kill_tree(first, state)

    for _ in range(2):
        done = subprocess.run(
            demo(state), capture_output=True, text=True, timeout=240, check=False, cwd="/"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for promised in ("SUCCEEDED", "verify-full", "kill -9", "Three things to try"):
            assert promised in done.stdout
        assert procfs.under(state) == []
        rest = json.loads((state / "demo.json").read_text())["rest"]
        assert ports.is_free("127.0.0.1", int(rest.rpartition(":")[2]))
