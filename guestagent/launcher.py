"""`python -m guestagent.launcher --socket PATH --agent-uid N`: runs as the engine's user.

Does for the agent, and for nobody else, what only the engine's user may do: run a program, write
or read a file. The kernel says who is at the other end (SO_PEERCRED), so the socket may be
reachable by anyone. It can do no more than the engine's user can, and it holds no secret.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import resource
import signal
import socket as sockets
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from guestagent import system

# The agent needs two or three at once; more is a fault, and it waits.
_CONCURRENT = 8


class Launcher:
    """Serves one agent, named by its uid."""

    def __init__(self, agent_uid: int) -> None:
        self._agent_uid = agent_uid
        self._slots = asyncio.Semaphore(_CONCURRENT)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer. The caller's hang-up ends the program it asked for."""
        try:
            if _peer_uid(writer) != self._agent_uid:
                await system.send_frame(writer, _error("refused", "only the agent may ask"))
                return
            request = await system.receive_frame(reader)
            async with self._slots:
                answer = await _until_hang_up(reader, self._perform(request))
            if answer is not None:
                await system.send_frame(writer, answer)
        except (ConnectionError, asyncio.IncompleteReadError, ValueError, system.LauncherError):
            return  # the agent went away or spoke nonsense: nothing to answer
        finally:
            await system.close_writer(writer)

    async def _perform(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return await _carry_out(request)
        except TimeoutError as error:
            return _error("timeout", str(error))
        except FileNotFoundError as error:
            return _error("not_found", str(error))
        except OSError as error:
            return _error("os", str(error))
        except (KeyError, TypeError, ValueError) as error:
            return _error("protocol", f"bad request: {error!r}")


async def _carry_out(request: dict[str, Any]) -> dict[str, Any]:
    operation = request["operation"]
    if operation == "run":
        done = await system.execute(
            [str(part) for part in request["argv"]],
            timeout=float(request["timeout"]),
            stdin=base64.b64decode(request["stdin"]),
            environment={str(k): str(v) for k, v in request["environment"].items()},
        )
        return {
            "code": done.code,
            "stdout": base64.b64encode(done.stdout).decode(),
            "stderr": base64.b64encode(done.stderr).decode(),
        }
    path = Path(request["path"])
    if operation == "write":
        data = base64.b64decode(request["data"])
        await asyncio.to_thread(system.replace_file, path, data, int(request["mode"]))
        return {}
    if operation == "read":
        found = await asyncio.to_thread(system.read_tail, path)
        return {"data": None if found is None else base64.b64encode(found).decode()}
    raise ValueError(f"unknown operation {operation!r}")


async def _until_hang_up(reader: asyncio.StreamReader, work: Any) -> dict[str, Any] | None:
    """The work's answer, or None when the caller hung up first (the work is cancelled)."""
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, listening):
            task.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": kind, "message": message}


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    peer = writer.get_extra_info("socket")
    credentials = peer.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)


@contextlib.asynccontextmanager
async def serving(socket: Path, agent_uid: int) -> AsyncIterator[None]:
    """Listen on `socket` for the block's duration; a dead launcher's socket is replaced."""
    # Between bind, listen and chmod a socket is seen and refuses: it gets its name last.
    draft = socket.with_name(f".{socket.name}.new")
    draft.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(Launcher(agent_uid).handle, draft)
    draft.chmod(0o666)  # SO_PEERCRED decides
    draft.rename(socket)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()
        socket.unlink(missing_ok=True)


async def serve(socket: Path, agent_uid: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with serving(socket, agent_uid):
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="guestagent.launcher", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="UNIX socket to listen on")
    parser.add_argument("--agent-uid", type=int, required=True, help="the only uid served")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asyncio.run(serve(options.socket, options.agent_uid))
    return 0


if __name__ == "__main__":
    sys.exit(main())
