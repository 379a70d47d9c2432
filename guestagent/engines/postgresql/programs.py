"""PostgreSQL's own programs: psql, pg_ctl, initdb."""

from __future__ import annotations

import re
from pathlib import Path

from guestagent.engines import EngineSpec
from guestagent.engines.postgresql import sql
from guestagent.engines.postgresql.settings import ADMINISTRATOR
from guestagent.engines.tools import Tools
from guestagent.system import Completed
from trove_grpc.errors import InvalidRequestError, UnsupportedError

_VERSION = re.compile(r"\A(?P<major>[0-9]{1,3})(\.[0-9]{1,3}){0,2}\Z", re.ASCII)


class Programs:
    """Finds them by version, and runs psql."""

    def __init__(self, tools: Tools, *, directory: Path) -> None:
        self._tools = tools
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
        return await self._tools.run(
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
