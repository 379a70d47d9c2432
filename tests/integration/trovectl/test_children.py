"""Supervision with real child processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trove_grpc.errors import ConflictError, UnavailableError
from trovectl import children, lock, procfs
from trovectl.children import Backoff, Command, Supervised
from trovectl.records import Records

FAST = Backoff(first=0.01, longest=0.05)
SLOW = Backoff(first=60, longest=60)
SLEEPER = "import time; time.sleep(600)"


async def eventually(claim: Callable[[], bool], seconds: float = 10) -> None:
    ends = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < ends, "did not become true in time"
        await asyncio.sleep(0.01)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "processes.json")


def command(tmp_path: Path, script: str, **options: object) -> Command:
    return Command(
        name="child",
        argv=(sys.executable, "-c", script),
        cwd=tmp_path,
        log=tmp_path / "logs" / "child.log",
        **options,
    )


async def test_dead_child_is_started_again_and_its_death_is_told(tmp_path, records):
    child = Supervised(command(tmp_path, SLEEPER), records, backoff=FAST)
    await child.start()
    first = child.pid
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: child.pid not in (0, first))
    assert child.restart_count == 1
    await child.stop()
    assert procfs.identify(first) is None


async def test_child_that_always_fails_names_its_last_words(tmp_path, records):
    script = "import sys; print('no such key', file=sys.stderr); sys.exit(3)"
    child = Supervised(command(tmp_path, script), records, backoff=SLOW)
    await child.start()
    await eventually(lambda: child.reason != "")
    assert child.reason == "exited with status 3: no such key"
    await child.stop()


async def test_stop_during_backoff_does_not_start_it_again(tmp_path, records):
    child = Supervised(command(tmp_path, "raise SystemExit"), records, backoff=SLOW)
    await child.start()
    await eventually(lambda: child.pid == 0)
    await asyncio.wait_for(child.stop(), 5)
    assert child.restart_count == 0


async def test_deaf_child_is_killed_after_its_grace(tmp_path, records):
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); time.sleep(600)"
    )
    child = Supervised(command(tmp_path, script, stop_grace=0.2), records, backoff=FAST)
    await child.start()
    pid = child.pid
    await eventually(lambda: "deaf" in child.command.log.read_text())
    await child.stop()
    assert procfs.identify(pid) is None


async def test_pause_between_restarts_doubles_up_to_the_longest():
    backoff = Backoff(first=1, longest=5)
    assert [backoff.pause(n) for n in (1, 2, 3, 4, 99)] == [1, 2, 4, 5, 5]


async def test_child_that_ran_long_enough_is_back_at_once_however_often_it_dies(tmp_path, records):
    backoff = Backoff(first=0.01, longest=60, forgiven_after=0)
    child = Supervised(command(tmp_path, SLEEPER), records, backoff=backoff)
    await child.start()
    for _ in range(12):  # doubling, the last pause alone would be 20 s
        pid = child.pid
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda pid=pid: child.pid not in (0, pid))
    await child.stop()


async def test_whatever_died_how_often_is_tried_again_well_within_ten_seconds():
    assert max(Backoff().pause(n) for n in range(1, 100)) <= 5


async def test_program_that_does_not_exist_is_a_clear_error(tmp_path, records):
    missing = Command(name="child", argv=("/no/such",), cwd=tmp_path, log=tmp_path / "child.log")
    with pytest.raises(UnavailableError, match="cannot start child"):
        await Supervised(missing, records, backoff=FAST).start()


async def test_nothing_of_our_environment_reaches_a_child(tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY", "secret")
    printing = command(tmp_path, "import os; print('CANARY' in os.environ)")
    await children.run_once(printing, timeout=20)
    assert children.tail(printing.log) == "False"


async def test_failed_short_command_raises_with_its_last_words(tmp_path):
    with pytest.raises(UnavailableError, match="exited with status 1: broken"):
        await children.run_once(command(tmp_path, "raise SystemExit('broken')"), timeout=20)


async def test_child_of_a_killed_supervisor_is_adopted_when_it_is_the_same(tmp_path, records):
    child = Supervised(command(tmp_path, SLEEPER), records, backoff=FAST)
    await child.start()
    later = Records(tmp_path / "processes.json")
    later.load()
    heir = Supervised(command(tmp_path, SLEEPER), later, backoff=FAST)
    await heir.start()
    assert heir.pid == child.pid
    await heir.stop()
    await child.stop()


async def test_child_of_another_command_is_ended_not_adopted(tmp_path, records):
    child = Supervised(command(tmp_path, SLEEPER), records, backoff=SLOW)
    await child.start()
    later = Records(tmp_path / "processes.json")
    later.load()
    heir = Supervised(command(tmp_path, SLEEPER + ";"), later, backoff=FAST)
    await heir.start()
    assert heir.pid != 0
    await eventually(lambda: child.pid == 0)
    await heir.stop()
    await child.stop()


@pytest.mark.parametrize("deaf_to", ["SIGINT", "SIGTERM"])
async def test_engine_is_ended_by_the_signal_it_listens_to(tmp_path, deaf_to):
    script = (
        f"import signal, time; signal.signal(signal.{deaf_to}, signal.SIG_IGN);"
        "print('up', flush=True); time.sleep(600)"
    )
    running = children.spawn(command(tmp_path, script))
    await eventually(lambda: "up" in children.tail(tmp_path / "logs" / "child.log"))
    await asyncio.wait_for(children.end_engines([running.process], grace=60), 10)
    assert running.has_exited


async def test_engine_hears_the_wish_to_be_fast_first(tmp_path):
    # It waits for the signals instead of being interrupted by them: both may be there at once, and
    # of two the lower number comes first, whoever sent it first.
    script = (
        "import signal\n"
        "wishes = {signal.SIGINT: 'fast', signal.SIGTERM: 'smart'}\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, wishes)\n"
        "print('up', flush=True)\n"
        "while (wish := signal.sigwait(wishes)) != signal.SIGTERM:\n"
        "    print(wishes[wish], flush=True)\n"
        "print(wishes[wish], flush=True)"
    )
    running = children.spawn(command(tmp_path, script))
    log = tmp_path / "logs" / "child.log"
    await eventually(lambda: "up" in log.read_text())
    await asyncio.wait_for(children.end_engines([running.process], grace=60), 10)
    assert log.read_text().split() == ["up", "fast", "smart"]


async def test_reused_pid_is_not_taken_for_the_old_process():
    me = procfs.identify(os.getpid())
    assert me is not None
    stranger = procfs.ProcessId(me.pid, me.start_ticks + 1, me.boot_id)
    assert children.adopt(stranger) is None
    assert not procfs.send(stranger, signal.SIGTERM)


async def test_leftovers_are_found_by_directory_and_by_command_line(tmp_path):
    inside = tmp_path / "guest"
    inside.mkdir()
    by_cwd = subprocess.Popen([sys.executable, "-c", SLEEPER], cwd=inside)  # noqa: ASYNC220
    module = tmp_path / "sleeper.py"
    module.write_text(SLEEPER)
    by_argument = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "sleeper", "--config", str(inside / "config.toml")],
        cwd="/",
        env={"PYTHONPATH": str(tmp_path)},
    )
    await eventually(lambda: len(procfs.under(inside)) == 2)
    await children.terminate_all(procfs.under(inside), number=signal.SIGTERM, grace=5)
    assert by_cwd.wait(5) == by_argument.wait(5) == -signal.SIGTERM
    assert procfs.under(inside) == []


def test_second_holder_of_a_lock_is_refused_with_the_pid_of_the_first(tmp_path):
    path = tmp_path / "lock"
    with lock.held(path):
        assert lock.holder_of(path) == os.getpid()
        with pytest.raises(ConflictError, match=f"pid {os.getpid()}"), lock.held(path):
            pass
    assert lock.holder_of(path) == 0


SUBREAPER = """
import asyncio, os, subprocess, sys
from trovectl import children, procfs
children.become_subreaper()
async def main():
    stop = asyncio.Event()
    task = asyncio.create_task(children.collect_orphans(stop))
    # A grandchild whose parent leaves first comes to us, and dies after.
    shell = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", "sleep 0.3 & echo $!", stdout=subprocess.PIPE)
    pid = int(await shell.stdout.readline())
    await shell.wait()
    parent = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
    assert parent == os.getpid(), parent
    for _ in range(1000):
        if not os.path.exists(f"/proc/{pid}"):
            break
        await asyncio.sleep(0.02)
    else:
        sys.exit("zombie was not collected")
    stop.set()
    await task
asyncio.run(main())
"""


async def test_orphans_come_to_the_supervisor_and_are_collected():
    script = await asyncio.create_subprocess_exec(sys.executable, "-c", SUBREAPER)
    assert await asyncio.wait_for(script.wait(), 30) == 0
