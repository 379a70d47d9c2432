"""One contract for both ways of running programs: directly, and through the launcher."""

from __future__ import annotations

import asyncio
import os

import pytest

from guestagent import launcher
from guestagent.system import DirectSystem, LauncherError, LauncherSystem
from tests.fakes.guest_gateway import eventually


@pytest.fixture(params=["direct", "launcher"])
async def system(request, tmp_path):
    if request.param == "direct":
        yield DirectSystem()
        return
    socket = tmp_path / "launcher"
    async with launcher.serving(socket, os.geteuid()):
        yield LauncherSystem(socket)


async def test_program_gets_its_input_and_gives_output_and_status(system):
    done = await system.run(["sh", "-c", "cat; echo sad >&2; exit 3"], timeout=5, stdin=b"in\0put")
    assert (done.code, done.stdout, done.stderr) == (3, b"in\0put", b"sad\n")


async def test_input_can_be_opened_by_name(system):
    done = await system.run(["cat", "/dev/stdin"], timeout=5, stdin=b"secret")
    assert done.stdout == b"secret"


async def test_program_inherits_no_environment(system, monkeypatch):
    monkeypatch.setenv("TROVE_CANARY", "1")
    done = await system.run(["env"], timeout=5, environment={"GIVEN": "yes"})
    names = {line.split(b"=")[0] for line in done.stdout.splitlines()}
    assert names - {b"_", b"PWD", b"SHLVL"} == {b"PATH", b"LANG", b"LC_ALL", b"GIVEN"}


async def test_program_beyond_its_time_is_killed(system, tmp_path):
    mark = tmp_path / "pid"
    with pytest.raises(TimeoutError, match="sh did not end within"):
        await system.run(["sh", "-c", f"echo $$ > {mark}; sleep 60"], timeout=0.3)
    pid = int(mark.read_text())
    await eventually(lambda: not _is_running(pid))


async def test_cancelled_caller_takes_its_program_along(system, tmp_path):
    mark = tmp_path / "pid"
    task = asyncio.create_task(system.run(["sh", "-c", f"echo $$ > {mark}; sleep 60"], timeout=60))
    await eventually(lambda: mark.exists() and mark.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pid = int(mark.read_text())
    await eventually(lambda: not _is_running(pid))


async def test_missing_program_is_said_to_be_missing(system):
    with pytest.raises(FileNotFoundError):
        await system.run(["/no/such/program"], timeout=5)


async def test_file_is_written_whole_with_its_mode_and_read_back(system, tmp_path):
    path = tmp_path / "file"
    await system.write_file(path, b"one", mode=0o640)
    await system.write_file(path, b"\0two", mode=0o600)
    assert await system.read_file(path) == b"\0two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob(".file*")) == []
    assert await system.read_file(tmp_path / "absent") is None


async def test_file_that_cannot_be_written_is_an_os_error(system, tmp_path):
    with pytest.raises(OSError, match="No such file"):
        await system.write_file(tmp_path / "no/where", b"", mode=0o600)


async def test_output_beyond_a_mebibyte_is_cut(system):
    done = await system.run(["head", "-c", "3000000", "/dev/zero"], timeout=10)
    assert len(done.stdout) == 1024 * 1024


async def test_absent_launcher_is_an_error_of_its_own(tmp_path):
    with pytest.raises(LauncherError, match="no launcher answers"):
        await LauncherSystem(tmp_path / "nobody").run(["true"], timeout=1)


async def test_launcher_refuses_another_uid(tmp_path):
    socket = tmp_path / "launcher"
    async with launcher.serving(socket, os.geteuid() + 1):
        with pytest.raises(LauncherError):
            await LauncherSystem(socket).run(["true"], timeout=1)


async def test_nonsense_on_the_socket_ends_that_connection_only(tmp_path):
    socket = tmp_path / "launcher"
    async with launcher.serving(socket, os.geteuid()):
        for data in (b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\3{{{", b"\0\0\0\2{}", b"x"):
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(data)
            writer.write_eof()
            await reader.read()
            writer.close()
            await writer.wait_closed()
        done = await LauncherSystem(socket).run(["true"], timeout=5)
    assert done.code == 0


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123  one line
        return file.read().rpartition(")")[2].split()[0] != "Z"
