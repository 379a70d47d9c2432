"""Redis's own programs, run as the engine's user: redis-server and redis-cli, or Valkey's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from guestagent.engines import EngineSpec
from guestagent.engines.redis.acl import ADMINISTRATOR
from guestagent.system import Completed, System
from trove_grpc.errors import (
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    UnavailableError,
    UnsupportedError,
)

_WANTED = re.compile(r"\A[0-9]{1,3}(\.[0-9]{1,3}){0,2}\Z", re.ASCII)
# "Redis server v=7.0.15 sha=…", "Valkey server v=8.0.1 sha=…"
_INSTALLED = re.compile(rb"\bv=([0-9.]+)")
_VERSION_SECONDS = 10.0
_MAX_ERROR_TEXT = 400


class Programs:
    """Runs them; every failure becomes an error of our vocabulary."""

    def __init__(self, system: System, *, directory: Path) -> None:
        self._system = system
        self._directory = directory

    def server(self) -> str:
        return self._path("server")

    def check(self, spec: EngineSpec) -> None:
        """Raise unless the version is one and a server is installed; which one, it must say."""
        if not _WANTED.match(spec.version):
            raise InvalidRequestError(f"{spec.version!r} is no Redis version, such as 7.0")
        if not Path(self.server()).exists():
            raise UnsupportedError(
                f"Redis {spec.version} is not installed on this guest: there is no {self.server()}",
                subject=spec.version,
            )

    async def check_version(self, spec: EngineSpec) -> None:
        """Raise UnsupportedError unless the installed server is of the wanted version."""
        done = await self.must([self.server(), "--version"], timeout=_VERSION_SECONDS)
        match = _INSTALLED.search(done.stdout)
        installed = match[1].decode() if match else "of no known version"
        wanted = spec.version.split(".")
        if installed.split(".")[: len(wanted)] != wanted:
            raise UnsupportedError(
                f"Redis {spec.version} is not installed on this guest; installed: {installed}",
                subject=spec.version,
            )

    async def run(self, argv: Sequence[str], *, timeout: float, stdin: bytes = b"") -> Completed:
        """Run to the end, whatever its status."""
        try:
            return await self._system.run(argv, timeout=timeout, stdin=stdin)
        except TimeoutError as error:
            raise DeadlineError(str(error), subject=argv[0]) from error
        except OSError as error:
            raise UnavailableError(
                f"cannot run {argv[0]} as the engine's user: {error}"
            ) from error

    async def must(self, argv: Sequence[str], *, timeout: float, stdin: bytes = b"") -> Completed:
        """Run to the end; raises ConflictError with the program's last words when it fails."""
        done = await self.run(argv, timeout=timeout, stdin=stdin)
        if done.code:
            raise ConflictError(
                f"{Path(argv[0]).name} failed with status {done.code}: {last_words(done.stderr)}",
                reason="ENGINE_COMMAND_FAILED",
                subject=argv[0],
            )
        return done

    async def cli(
        self, commands: Sequence[str], *, socket: Path, password: bytes, timeout: float
    ) -> list[str]:
        """What the server answers to each line, as the administrator; raises like `run`.

        The password goes before them through standard input. Without a server there is one
        line, of what redis-cli says about it.
        """
        script = b"AUTH " + ADMINISTRATOR.encode() + b" " + password + b"\n"
        script += "".join(f"{command}\n" for command in commands).encode()
        done = await self.run([self._path("cli"), "-s", str(socket)], timeout=timeout, stdin=script)
        lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line]
        if lines[:1] == ["OK"]:
            return lines[1:]
        return lines[:1] or [done.stderr.decode(errors="replace").partition("\n")[0]]

    def _path(self, name: str) -> str:
        """Redis's program, or Valkey's where only that is installed."""
        redis = self._directory / f"redis-{name}"
        valkey = self._directory / f"valkey-{name}"
        return str(valkey if valkey.exists() and not redis.exists() else redis)


def last_words(output: bytes) -> str:
    """The end of a program's output, on one line, for people."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    text = " | ".join(line for line in lines if line)
    return text[-_MAX_ERROR_TEXT:] or "it said nothing"
