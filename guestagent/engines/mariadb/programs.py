"""MariaDB's own programs: mariadbd, mariadb, mariadb-install-db."""

from __future__ import annotations

import re
from pathlib import Path

from guestagent.engines import EngineSpec
from guestagent.engines.tools import Tools
from guestagent.system import Completed
from trove_grpc.errors import InvalidRequestError, UnsupportedError

_WANTED = re.compile(r"\A[0-9]{1,3}(\.[0-9]{1,3}){1,2}\Z", re.ASCII)
_INSTALLED = re.compile(rb"Ver ([0-9.]+)-MariaDB")
_VERSION_SECONDS = 30.0


class Programs:
    """Finds them below a prefix, checks their version, runs the client."""

    def __init__(self, tools: Tools, *, prefix: Path) -> None:
        self._tools = tools
        self._prefix = prefix

    def server(self) -> str:
        return str(self._prefix / "sbin/mariadbd")

    def initialiser(self) -> list[str]:
        # No option file of the machine's applies to our clusters.
        program = str(self._prefix / "bin/mariadb-install-db")
        return [program, "--no-defaults", f"--basedir={self._prefix}"]

    def check(self, spec: EngineSpec) -> None:
        """Raise unless the version is one and a server is installed; which one, it must say."""
        if not _WANTED.match(spec.version):
            raise InvalidRequestError(f"{spec.version!r} is no MariaDB version, such as 10.11")
        if not Path(self.server()).exists():
            raise UnsupportedError(
                f"MariaDB {spec.version} is not installed on this guest: no {self.server()}",
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
                f"MariaDB {spec.version} is not installed on this guest; installed: {installed}",
                subject=spec.version,
            )

    async def client(self, options: Path, script: str, *, timeout: float) -> Completed:
        """Run a script from standard input as the administrator; stops at its first error."""
        return await self._tools.run(
            [
                str(self._prefix / "bin/mariadb"),
                # The password stands there; it must be the first argument.
                f"--defaults-file={options}",
                *("--batch", "--skip-column-names", "--raw", "--binary-mode"),
                *("--default-character-set=utf8mb4", f"--connect-timeout={max(2, int(timeout))}"),
            ],
            timeout=timeout,
            stdin=script.encode(),
            # The client would keep a history, and read ~/.my.cnf.
            environment={"HOME": "/nonexistent", "MYSQL_HISTFILE": "/dev/null"},
        )
