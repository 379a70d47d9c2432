"""What engines share: locks that tell who lives, and drafts that appear whole."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from guestagent.engines.tools import Tools
from guestagent.system import DirectSystem
from tests.fakes.guest_gateway import eventually
from trove_grpc.errors import ConflictError, DeadlineError

SLEEPER = ["sleep", "300"]


@pytest.fixture
def tools() -> Tools:
    return Tools(DirectSystem())


@pytest.fixture
def spawn(tools, tmp_path):
    async def start(argv: list[str]) -> bool:
        return await tools.spawn(
            argv, directory=tmp_path, lock=tmp_path / "lock", log=tmp_path / "log"
        )

    return start


def pid_of(tmp_path) -> int:
    text = (tmp_path / "lock").read_text().strip()
    return int(text) if text else 0


async def test_second_server_is_not_started_while_the_first_one_lives(tools, spawn, tmp_path):
    assert not await tools.is_running(tmp_path / "lock")
    assert sorted(await asyncio.gather(spawn(SLEEPER), spawn(SLEEPER))) == [False, True]
    assert await tools.is_running(tmp_path / "lock")
    await tools.terminate(tmp_path / "lock")
    assert await tools.has_ended(tmp_path / "lock", within=20)


async def test_killed_server_is_gone_at_once_whatever_its_pid_file_says(tools, spawn, tmp_path):
    await spawn(SLEEPER)
    pid = await eventually(lambda: pid_of(tmp_path))
    assert not await tools.has_ended(tmp_path / "lock", within=0)
    os.kill(pid, signal.SIGKILL)
    assert await tools.has_ended(tmp_path / "lock", within=20)
    assert pid_of(tmp_path) == pid
    # Asked to end what is gone: nobody who has that pid by now is meant.
    (tmp_path / "lock").write_text(str(os.getpid()))
    await tools.terminate(tmp_path / "lock")


async def test_server_works_in_its_directory_and_its_words_are_kept(tools, spawn, tmp_path):
    assert await spawn(["sh", "-c", "pwd; echo trouble >&2"])
    assert await tools.has_ended(tmp_path / "lock", within=20)
    assert (tmp_path / "log").read_text() == f"{tmp_path}\ntrouble\n"


async def test_server_without_a_directory_is_a_failure_with_a_reason(tools, tmp_path):
    with pytest.raises(ConflictError, match="cannot start sleep"):
        await tools.spawn(
            SLEEPER, directory=tmp_path / "none", lock=tmp_path / "lock", log=tmp_path / "log"
        )


async def test_build_appears_whole_or_not_at_all(tools, tmp_path):
    draft, final = tmp_path / "new", tmp_path / "made"
    broken = ["sh", "-c", 'mkdir "$1" && echo half >"$1/file"; echo no luck >&2; exit 3', "sh"]
    with pytest.raises(ConflictError, match="status 3: no luck"):
        await tools.build([*broken, str(draft)], draft=draft, final=final, timeout=20)
    assert not final.exists()
    good = ["sh", "-c", 'mkdir "$1" && cat >"$1/file"', "sh", str(draft)]
    await tools.build(good, draft=draft, final=final, timeout=20, stdin=b"whole")
    assert (final / "file").read_text() == "whole"
    await tools.build(["false"], draft=draft, final=final, timeout=20)
    assert (final / "file").read_text() == "whole"


async def test_build_waits_for_what_a_killed_agent_left_running_and_takes_it(tools, tmp_path):
    draft, final, go = tmp_path / "new", tmp_path / "made", tmp_path / "go"
    os.mkfifo(go)
    argv = ["sh", "-c", 'read word <"$2" && mkdir "$1" && echo "$word" >"$1/file"', "sh"]
    argv += [str(draft), str(go)]

    async def build(timeout: float) -> None:
        await tools.build(argv, draft=draft, final=final, timeout=timeout)

    first = asyncio.create_task(build(60))
    await eventually((tmp_path / ".made.lock").exists)
    with pytest.raises(DeadlineError, match="still runs"):
        await build(0.2)
    second = asyncio.create_task(build(60))
    await asyncio.to_thread(go.write_text, "once\n")
    await asyncio.gather(first, second)
    assert (final / "file").read_text() == "once\n"
