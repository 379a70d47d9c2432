"""Redis's own programs, run as the engine's user: redis-server and redis-cli, or Valkey's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from guestagent.engines import EngineSpec
from guestagent.engines.redis.acl import ADMINISTRATOR
from guestagent.engines.tools import Tools
from trove_grpc.errors import InvalidRequestError, UnsupportedError

_WANTED = re.compile(r"\A[0-9]{1,3}(\.[0-9]{1,3}){0,2}\Z", re.ASCII)
# Both say it in one way: Redis server v=7.0.15 sha=00000000:0 …
_INSTALLED = re.compile(rb"\bv=([0-9.]+)")
_VERSION_SECONDS = 10.0


class Programs:
    """Finds and runs them."""

    def __init__(self, tools: Tools, *, directory: Path) -> None:
        self._tools = tools
        self._directory = directory

    def server(self) -> str:
        return self._path("server")

    def check(self, spec: EngineSpec) -> None:
        """Raise unless the version is one and a server is installed; which one, it must say."""
        if not _WANTED.match(spec.version):
            raise InvalidRequestError(f"{spec.version!r} is no Redis version, such as 7.0")
        if not Path(self.server()).exists():
            raise UnsupportedError(
                f"Redis {spec.version} is not installed on this guest: no {self.server()}",
                subject=spec.version,
            )

    async def check_version(self, spec: EngineSpec) -> None:
        """Raise UnsupportedError unless the installed server is of the wanted version."""
        done = await self._tools.must([self.server(), "--version"], timeout=_VERSION_SECONDS)
        match = _INSTALLED.search(done.stdout)
        installed = match[1].decode() if match else "of no known version"
        wanted = spec.version.split(".")
        if installed.split(".")[: len(wanted)] != wanted:
            raise UnsupportedError(
                f"Redis {spec.version} is not installed on this guest; installed: {installed}",
                subject=spec.version,
            )

    async def cli(
        self, commands: Sequence[str], *, socket: Path, password: bytes, timeout: float
    ) -> list[str]:
        """What the server answers to each line, as the administrator; raises like `run`.

        The password goes before them, through standard input. Without a server there is one
        line, of what redis-cli says about it.
        """
        script = b"AUTH " + ADMINISTRATOR.encode() + b" " + password + b"\n"
        script += "".join(f"{command}\n" for command in commands).encode()
        done = await self._tools.run(
            [self._path("cli"), "-s", str(socket)], timeout=timeout, stdin=script
        )
        lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line]
        if lines[:1] == ["OK"]:
            return lines[1:]
        return lines[:1] or [done.stderr.decode(errors="replace").partition("\n")[0]]

    def _path(self, name: str) -> str:
        """Redis's program, or Valkey's where only that is installed."""
        redis = self._directory / f"redis-{name}"
        valkey = self._directory / f"valkey-{name}"
        return str(valkey if valkey.exists() and not redis.exists() else redis)
