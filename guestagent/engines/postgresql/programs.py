"""PostgreSQL's own programs, run as the engine's user: psql, pg_ctl, initdb."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from guestagent.engines import EngineSpec
from guestagent.engines.postgresql import sql
from guestagent.engines.postgresql.settings import ADMINISTRATOR
from guestagent.system import Completed, System
from trove_grpc.errors import (
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    UnavailableError,
    UnsupportedError,
)

_VERSION = re.compile(r"\A(?P<major>[0-9]{1,3})(\.[0-9]{1,3}){0,2}\Z", re.ASCII)
_MAX_ERROR_TEXT = 400


class Programs:
    """Runs them; every failure becomes an error of our vocabulary."""

    def __init__(self, system: System, *, directory: Path) -> None:
        self._system = system
        self._directory = directory

    def path(self, spec: EngineSpec, name: str) -> str:
        """A program of the wanted major version; the version never becomes a path by itself."""
        match = _VERSION.match(spec.version)
        if match is None:
            raise InvalidRequestError(f"{spec.version!r} is no PostgreSQL version, such as 15")
        return str(self._directory / match["major"] / "bin" / name)

    def check(self, spec: EngineSpec) -> None:
        """Raise UnsupportedError unless the version is installed here."""
        if not Path(self.path(spec, "postgres")).exists():
            installed = sorted(
                path.parent.parent.name for path in self._directory.glob("*/bin/postgres")
            )
            raise UnsupportedError(
                f"PostgreSQL {spec.version} is not installed on this guest; installed: "
                f"{', '.join(installed) or 'none'}",
                subject=spec.version,
            )

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: bytes = b"",
        environment: dict[str, str] | None = None,
    ) -> Completed:
        """Run to the end, whatever its status."""
        try:
            return await self._system.run(
                argv, timeout=timeout, stdin=stdin, environment=environment
            )
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

    async def psql(
        self,
        spec: EngineSpec,
        script: str,
        *,
        socket_directory: Path,
        password_file: Path,
        database: str = "postgres",
        timeout: float,
    ) -> Completed:
        """Run a script from standard input as the administrator; stops at its first error."""
        return await self.run(
            [
                self.path(spec, "psql"),
                *("--no-psqlrc", "--no-password", "--quiet", "--no-align", "--tuples-only"),
                *("--record-separator-zero", "--set=ON_ERROR_STOP=1", "--file=-"),
            ],
            timeout=timeout,
            stdin=(sql.SILENCE + script).encode(),
            environment={
                "PGHOST": str(socket_directory),
                "PGPORT": str(spec.port),
                "PGUSER": ADMINISTRATOR,
                # By environment: psql would read a name with "=" on its command line as options.
                "PGDATABASE": database,
                "PGPASSFILE": str(password_file),
                "PGCLIENTENCODING": "UTF8",
                "PGCONNECT_TIMEOUT": str(max(2, int(timeout))),
                "PGAPPNAME": "trove guest agent",
            },
        )


def last_words(output: bytes) -> str:
    """The end of a program's error output, on one line, for people."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    text = " | ".join(line for line in lines if line)
    return text[-_MAX_ERROR_TEXT:] or "it said nothing"
