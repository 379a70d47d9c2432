"""The only code that starts programs or touches the engine's files.

The agent and its engine may be two users, so that whoever takes over the engine cannot read the
agent's key. Then the agent asks the launcher, which runs as the engine's user, instead of
holding privileges itself. Standard library only: the launcher imports this module alone.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import glob
import json
import os
import signal
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# A request carries SQL or a file of ours, an answer the end of some program's output.
MAX_FRAME_BYTES = 4 * 1024 * 1024
_MAX_OUTPUT_BYTES = 1024 * 1024
# Added to a program's own time when asking the launcher, seconds.
_LAUNCHER_MARGIN = 5.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LauncherError(OSError):
    """The launcher is away or broke the protocol."""


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended. Output beyond 1 MiB is cut."""

    code: int
    stdout: bytes
    stderr: bytes


class System(Protocol):
    """Programs and files of the engine's user."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run to the end. Secrets go through `stdin`, never `argv` or `environment`.

        Raises TimeoutError after killing the program, FileNotFoundError when there is none,
        LauncherError when the launcher is away.
        """

    async def write_file(self, path: Path, data: bytes, *, mode: int) -> None:
        """Create or replace a file so that a crash leaves the old or the new one."""

    async def read_file(self, path: Path) -> bytes | None:
        """The file's bytes (the last 1 MiB), or None when it does not exist."""


class DirectSystem:
    """Agent and engine are one user: no helper in between."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        return await execute(argv, timeout=timeout, stdin=stdin, environment=environment)

    async def write_file(self, path: Path, data: bytes, *, mode: int) -> None:
        await asyncio.to_thread(replace_file, path, data, mode)

    async def read_file(self, path: Path) -> bytes | None:
        return await asyncio.to_thread(read_tail, path)


class LauncherSystem:
    """Asks the launcher on its socket; each request is a connection of its own."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        answer = await self._ask(
            {
                "operation": "run",
                "argv": list(argv),
                "timeout": timeout,
                "stdin": base64.b64encode(stdin).decode(),
                "environment": dict(environment or {}),
            },
            timeout + _LAUNCHER_MARGIN,
        )
        return Completed(
            int(answer["code"]),
            base64.b64decode(answer["stdout"]),
            base64.b64decode(answer["stderr"]),
        )

    async def write_file(self, path: Path, data: bytes, *, mode: int) -> None:
        request = {
            "operation": "write",
            "path": str(path),
            "data": base64.b64encode(data).decode(),
            "mode": mode,
        }
        await self._ask(request, 30.0)

    async def read_file(self, path: Path) -> bytes | None:
        answer = await self._ask({"operation": "read", "path": str(path)}, 30.0)
        return None if answer["data"] is None else base64.b64decode(answer["data"])

    async def _ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    await send_frame(writer, request)
                    answer = await receive_frame(reader)
                finally:
                    await close_writer(writer)
        except (ConnectionError, FileNotFoundError, asyncio.IncompleteReadError) as error:
            raise LauncherError(f"no launcher answers on {self._socket}: {error}") from error
        return _checked(answer)


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    kind, text = answer.get("error", ""), str(answer.get("message", ""))
    if not kind:
        return answer
    errors: dict[str, type[OSError]] = {
        "timeout": TimeoutError,
        "not_found": FileNotFoundError,
        "os": OSError,
    }
    raise errors.get(str(kind), LauncherError)(text)


async def execute(
    argv: Sequence[str],
    *,
    timeout: float,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run one program in its own session and wait for it; see System.run.

    Its environment is ours to say, nothing is inherited. A timeout or a cancellation kills the
    whole session; daemons that made a session of their own (a started engine) stay.
    """
    with _memory_file(stdin) as source:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=source,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": _PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **(environment or {})},
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate()
    except TimeoutError:
        raise TimeoutError(f"{argv[0]} did not end within {timeout:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Completed(
        process.returncode or 0, stdout[-_MAX_OUTPUT_BYTES:], stderr[-_MAX_OUTPUT_BYTES:]
    )


@contextlib.contextmanager
def _memory_file(data: bytes) -> Iterator[int]:
    """Hold `data` in a file without a name.

    A program can open it as /dev/stdin, which asyncio's pipes (sockets on Python 3.11) do not
    allow, and nobody else can.
    """
    handle = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(data)
        os.lseek(handle, 0, os.SEEK_SET)
        yield handle
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Write beside, fsync, rename; a full disk or a kill leaves nothing beside for long."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = draft.name.split(".")[-2]
        if pid == str(os.getpid()) or not Path("/proc", pid).exists():
            draft.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_tail(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _MAX_OUTPUT_BYTES))
            return file.read()
    except FileNotFoundError:
        return None


async def send_frame(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    if len(data) > MAX_FRAME_BYTES:
        raise LauncherError(f"a message of {len(data)} bytes is too large for the launcher")
    writer.write(struct.pack(">I", len(data)) + data)
    await writer.drain()


async def receive_frame(reader: asyncio.StreamReader) -> dict[str, Any]:
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    if length > MAX_FRAME_BYTES:
        raise LauncherError(f"a message of {length} bytes was announced")
    message = json.loads(await reader.readexactly(length))
    if not isinstance(message, dict):
        raise LauncherError("a message is not an object")
    return message


async def close_writer(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
