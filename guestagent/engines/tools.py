"""What every engine does with its user's programs and files, in our vocabulary of errors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from guestagent.system import Completed, LauncherError, System
from trove_grpc.errors import (
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    TroveError,
    UnavailableError,
)
from trove_grpc.gen.common.v1 import engine_pb2

_FILE_SECONDS = 30.0
_LOG_LIMIT_BYTES = 16 * 1024 * 1024
_MAX_ERROR_TEXT = 400
# sockaddr_un.sun_path less its NUL.
_MAX_SOCKET_PATH = 107
_HELD = 99
# $1 lock, $2 log, $3 directory, then the server. The lock is taken before anything forks and
# goes with the server's process: there is no moment in which it runs and nobody knows.
_SPAWN = """
umask 077
exec 9>>"$1" || exit 98
flock --nonblock 9 || exit 99
: >"$1"
lock=$1 log=$2
cd "$3" && shift 3 || exit 97
exec setsid --fork sh -c 'echo $$ >"$0" && exec "$@"' "$lock" "$@" >>"$log" 2>&1 </dev/null
"""
# $1 draft, $2 final, then the program.
_BUILD = """
draft=$1 final=$2
shift 2
[ ! -e "$final" ] || exit 0
rm -rf -- "$draft" || exit
"$@" || exit
mv --no-target-directory -- "$draft" "$final" && sync -- "${final%/*}"
"""


class Tools:
    """Programs and files of the engine's user."""

    def __init__(self, system: System) -> None:
        self._system = system

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run to the end, whatever its status."""
        try:
            return await self._system.run(
                argv, timeout=timeout, stdin=stdin, environment=environment
            )
        except TimeoutError as error:
            raise DeadlineError(str(error), subject=argv[0]) from error
        except OSError as error:
            raise _failure(f"cannot run {argv[0]} as the engine's user", error) from error

    async def must(
        self, argv: Sequence[str], *, timeout: float = _FILE_SECONDS, stdin: bytes = b""
    ) -> Completed:
        """Run to the end; raises ConflictError with the program's last words when it fails."""
        done = await self.run(argv, timeout=timeout, stdin=stdin)
        if done.code:
            raise ConflictError(
                f"{Path(argv[0]).name} failed with status {done.code}: {last_words(done.stderr)}",
                reason="ENGINE_COMMAND_FAILED",
                subject=argv[0],
            )
        return done

    async def read(self, path: Path) -> bytes | None:
        try:
            return await self._system.read_file(path)
        except OSError as error:
            raise _failure(f"cannot read {path}", error) from error

    async def write(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        try:
            await self._system.write_file(path, data, mode=mode)
        except OSError as error:
            raise _failure(f"cannot write {path}", error) from error

    async def remove(self, path: Path) -> None:
        await self.must(["rm", "-rf", "--", str(path)])

    async def exists(self, path: Path) -> bool:
        return (await self.run(["test", "-e", str(path)], timeout=_FILE_SECONDS)).code == 0

    async def build(
        self, argv: Sequence[str], *, draft: Path, final: Path, timeout: float, stdin: bytes = b""
    ) -> None:
        """Run a program that makes `draft`, then give it its name: `final` exists whole or not.

        One at a time: what an agent that was killed left running is waited for, and may have
        finished the work. Nothing is done when `final` is there.
        """
        lock = final.with_name(f".{final.name}.lock")
        done = await self.run(
            [
                *("flock", f"--timeout={timeout:g}", f"--conflict-exit-code={_HELD}", str(lock)),
                *("sh", "-c", _BUILD, "sh", str(draft), str(final), *argv),
            ],
            timeout=2 * timeout,
            stdin=stdin,
        )
        if done.code == _HELD:
            raise DeadlineError(f"an earlier {Path(argv[0]).name} still runs", subject=argv[0])
        if done.code:
            raise ConflictError(
                f"{Path(argv[0]).name} failed with status {done.code}: {last_words(done.stderr)}",
                reason="ENGINE_COMMAND_FAILED",
                subject=argv[0],
            )

    async def measure(self, directory: Path) -> engine_pb2.VolumeUsage:
        """The size of the volume, and what is used below `directory`."""
        # statvfs needs to pass the parents only; the directory itself is the engine's.
        volume = os.statvfs(directory)
        measured = await self.run(
            ["du", "--summarize", "--one-file-system", "--block-size=1", str(directory)],
            timeout=_FILE_SECONDS,
        )
        used = measured.stdout.split()[:1]  # du ends with 1 when files vanish meanwhile
        return engine_pb2.VolumeUsage(
            total_bytes=volume.f_blocks * volume.f_frsize, used_bytes=int(used[0]) if used else 0
        )

    async def bound_log(self, log: Path) -> None:
        """Keep one old log beside the present one; the server appends, so cutting is safe."""
        size = await self.run(["stat", "--format=%s", str(log)], timeout=_FILE_SECONDS)
        if size.code == 0 and int(size.stdout) > _LOG_LIMIT_BYTES:
            await self.must(["cp", str(log), f"{log}.1"])
            await self.must(["truncate", "--size=0", str(log)])

    # A server that does not become a daemon by itself: its lock file is held as long as it lives,
    # and contains its pid.

    async def spawn(self, argv: Sequence[str], *, directory: Path, lock: Path, log: Path) -> bool:
        """Start a server in `directory`; False when the lock says that it runs already."""
        done = await self.run(
            ["sh", "-c", _SPAWN, "sh", str(lock), str(log), str(directory), *argv],
            timeout=_FILE_SECONDS,
        )
        if done.code not in (0, _HELD):
            raise ConflictError(
                f"cannot start {argv[0]}: {last_words(done.stderr)}", reason="ENGINE_START_FAILED"
            )
        return done.code == 0

    async def is_running(self, lock: Path) -> bool:
        """Whether the server of this lock lives, whoever started it."""
        if not await self.exists(lock):
            return False
        return not await self.has_ended(lock, within=0)

    async def has_ended(self, lock: Path, *, within: float) -> bool:
        """Wait up to `within` seconds for the server of this lock to end."""
        done = await self.run(
            [
                *("flock", "--shared", f"--timeout={within:g}"),
                *(f"--conflict-exit-code={_HELD}", str(lock), "true"),
            ],
            timeout=within + _FILE_SECONDS,
        )
        return done.code != _HELD

    async def terminate(self, lock: Path) -> None:
        """Ask the server of this lock to end (SIGTERM)."""
        # A server that has just been started writes its pid in a moment.
        while await self.is_running(lock):
            pid = (await self.read(lock) or b"").strip()
            if pid.isdigit():
                await self.run(["sh", "-c", 'kill -TERM "$1"', "sh", pid.decode()], timeout=5)
                return


def _failure(what: str, error: OSError) -> TroveError:
    """What a failed program or file means to whoever sent the command.

    A launcher that is away comes back, so the command may be repeated; a missing program or
    directory and a full disk do not heal by asking again, and must be said at once.
    """
    if isinstance(error, LauncherError):
        return UnavailableError(f"{what}: {error}")
    return ConflictError(
        f"{what}: {error}; see the guest's disk and installation", reason="ENGINE_FILES"
    )


def last_words(output: bytes) -> str:
    """The end of a program's error output, on one line, for people."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    text = " | ".join(line for line in lines if line)
    return text[-_MAX_ERROR_TEXT:] or "it said nothing"


def check_socket(path: Path) -> None:
    """Raise InvalidRequestError where the kernel would cut a socket's path."""
    if len(str(path).encode()) > _MAX_SOCKET_PATH:
        raise InvalidRequestError(
            f"run_directory is too long: {path} has more than {_MAX_SOCKET_PATH} bytes, the limit "
            f"of a UNIX socket; choose a shorter one",
            subject=str(path.parent),
        )
