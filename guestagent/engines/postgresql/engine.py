"""PostgreSQL behind the Engine protocol.

    <data_directory>/pgdata          the cluster; appears whole, by rename
    <data_directory>/pgdata/tenant.conf   the tenant's settings; with .good, the last that started
    <data_directory>/admin.pgpass    the administrator's generated password, 0600
    <data_directory>/postgresql.log  standard error, bounded by `tend`
    <run_directory>/.s.PGSQL.<port>  the administrator's way in

All of it belongs to the engine's user. The agent keeps no copy of the password.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from guestagent.engines import (
    LIFE_ACTIONS,
    Capabilities,
    DatabaseAuthority,
    EngineSpec,
    Probe,
    Process,
    accounts,
)
from guestagent.engines.certificate import ensure_certificate, note_use, shown_serial
from guestagent.engines.parameters import IncludeFile, check, text_of
from guestagent.engines.postgresql import settings, sql
from guestagent.engines.postgresql.accounts import PostgreSQLAccounts
from guestagent.engines.postgresql.programs import Programs
from guestagent.engines.tools import Tools, check_socket, last_words
from guestagent.system import Completed, System
from trove_grpc.errors import ConflictError, DeadlineError, InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2

CAPABILITIES = Capabilities(
    manager="postgresql",
    actions=LIFE_ACTIONS | accounts.ACTIONS,
    user_hosts=False,
)
_INITDB_SECONDS = 120.0
# Beyond this a start goes on by itself (crash recovery) and shows as STARTING.
_START_SECONDS = 20
_STOP_SECONDS = 60
_QUERY_SECONDS = 30.0
_PROBE_SECONDS = 5.0
_FILE_SECONDS = 30.0
_RELOAD_POLL_SECONDS = 0.05
# Words of a server that runs and is on its way (SQLSTATE 57P03).
_ON_ITS_WAY = re.compile(r"starting up|in recovery|not yet accepting|shutting down")


class PostgreSQL:
    """One cluster."""

    capabilities = CAPABILITIES

    def __init__(
        self,
        system: System,
        *,
        data_directory: Path,
        run_directory: Path,
        programs_directory: Path,
    ) -> None:
        self._tools = Tools(system)
        self._programs = Programs(self._tools, directory=programs_directory)
        self._home = data_directory
        self._cluster = data_directory / "pgdata"
        self._password_file = data_directory / "admin.pgpass"
        self._log = data_directory / "postgresql.log"
        self._run_directory = run_directory
        self.accounts = PostgreSQLAccounts(self._must_sql)
        self.include = IncludeFile(self._tools, self._cluster / "tenant.conf")

    def check(
        self,
        spec: EngineSpec,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        self._programs.check(spec)
        check_socket(settings.socket_path(self._run_directory, spec.port))
        try:
            settings.postgresql_conf(spec, self._run_directory)
        except ValueError as error:
            raise InvalidRequestError(f"listen address: {error}") from error
        if not spec.listen_addresses:
            raise InvalidRequestError("prepare names no address to listen on")
        for database in databases:
            sql.check_database(database)
        for user in users:
            sql.check_user(user)

    async def create(self, spec: EngineSpec, authority: DatabaseAuthority) -> None:
        if await self._tools.read(self._cluster / "PG_VERSION") is None:
            await self._initialise(spec)
        await ensure_certificate(self._tools, self._cluster, authority)
        await self._tools.write(self._cluster / "pg_hba.conf", settings.pg_hba_conf())
        await self.write_settings(spec)

    async def write_settings(self, spec: EngineSpec) -> None:
        conf = settings.postgresql_conf(spec, self._run_directory)
        await self._tools.write(self._cluster / "postgresql.conf", conf)

    async def start(self, spec: EngineSpec) -> None:
        if await self._postmaster() is not None:
            return
        # What is left of a postmaster that is no more: its pid may belong to somebody else now,
        # and then PostgreSQL would refuse to start.
        await self._tools.remove(self._cluster / "postmaster.pid")
        arguments = ["start", "-w", "-s", "-t", str(_START_SECONDS), "-l", str(self._log)]
        done = await self._pg_ctl(spec, *arguments, timeout=_START_SECONDS + 10)
        if done.code and await self._postmaster() is None:
            log = (await self._tools.read(self._log) or b"")[-2000:]
            raise ConflictError(
                f"PostgreSQL does not start: {last_words(log or done.stderr)}",
                reason="ENGINE_START_FAILED",
            )

    async def stop(self, spec: EngineSpec) -> None:
        if await self._postmaster() is None:
            return
        arguments = ["stop", "-w", "-s", "-m", "fast", "-t", str(_STOP_SECONDS)]
        done = await self._pg_ctl(spec, *arguments, timeout=_STOP_SECONDS + 10)
        if done.code and await self._postmaster() is not None:
            raise ConflictError(
                f"PostgreSQL does not stop: {last_words(done.stderr)}",
                reason="ENGINE_STOP_FAILED",
            )

    async def probe(self, spec: EngineSpec) -> Probe:
        done = await self._psql(spec, "SHOW server_version;\n", timeout=_PROBE_SECONDS)
        if done.code == 0:
            words = done.stdout.decode(errors="replace").split()
            return Probe(process=Process.ANSWERING, version=words[0] if words else "")
        said = last_words(done.stderr)
        if await self._postmaster() is None:
            return Probe(process=Process.GONE, reason="PostgreSQL's process is gone")
        if _ON_ITS_WAY.search(said) or "No such file" in said:
            return Probe(process=Process.STARTING, reason=f"PostgreSQL is on its way: {said}")
        return Probe(process=Process.BLOCKED, reason=f"PostgreSQL does not answer: {said}")

    async def apply(
        self,
        spec: EngineSpec,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        known_databases = await self._names(spec, sql.LIST_DATABASES)
        known_roles = await self._names(spec, sql.LIST_ROLES)
        await self._must_sql(
            spec,
            sql.close_system_databases()
            + sql.create_databases(databases, known_databases)
            + sql.create_users(users, known_roles),
        )
        for database in sorted({name for user in users for name in user.databases}):
            granted = [user.name for user in users if database in user.databases]
            await self._must_sql(spec, sql.grant_schema(granted), database=database)

    async def configure(
        self, spec: EngineSpec, parameters: Sequence[engine_pb2.Parameter]
    ) -> list[str]:
        check(parameters, forbidden=settings.FORBIDDEN)
        values = {parameter.name: text_of(parameter) for parameter in parameters}
        await self._try_values(spec, values)
        await self.write_settings(spec)
        await self.include.write(f"{name} = '{value}'" for name, value in values.items())
        loaded = await self._must_sql(spec, sql.LOAD_TIME)
        await self._pg_ctl(spec, "reload", "-s", timeout=_QUERY_SECONDS)
        # A reload is a signal: the server has done it when its clock of loads has moved.
        ends = asyncio.get_running_loop().time() + _QUERY_SECONDS
        while await self._must_sql(spec, sql.LOAD_TIME) == loaded:
            if asyncio.get_running_loop().time() > ends:
                raise DeadlineError("PostgreSQL does not load its settings again")
            await asyncio.sleep(_RELOAD_POLL_SECONDS)
        return sorted(await self._names(spec, sql.LIST_PENDING))

    async def tend(self, spec: EngineSpec, authority: DatabaseAuthority) -> engine_pb2.VolumeUsage:
        await self._tools.bound_log(self._log)
        if await ensure_certificate(self._tools, self._cluster, authority):
            done = await self._pg_ctl(spec, "reload", "-s", timeout=_QUERY_SECONDS)
            if done.code == 0:
                await note_use(self._tools, self._cluster)
        return await self._tools.measure(self._home)

    async def certificate_serial(self) -> str:
        return await shown_serial(self._tools, self._cluster)

    async def _try_values(self, spec: EngineSpec, values: Mapping[str, str]) -> None:
        """Let the server judge each value, the ones for its next start too.

        ALTER SYSTEM checks what it writes and nothing reads it before it is taken back.
        """
        try:
            await self._must_sql(spec, sql.try_settings(values))
        finally:
            await self._must_sql(spec, sql.FORGET_TRIED)

    async def _initialise(self, spec: EngineSpec) -> None:
        password = await self._ensure_password()
        draft = self._cluster.with_name("pgdata.new")
        await self._tools.build(
            [
                self._programs.path(spec, "initdb"),
                f"--pgdata={draft}",
                f"--username={settings.ADMINISTRATOR}",
                *("--auth=scram-sha-256", "--pwfile=/dev/stdin", "--data-checksums"),
                *("--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"),
            ],
            draft=draft,
            final=self._cluster,
            timeout=_INITDB_SECONDS,
            stdin=password + b"\n",
        )

    async def _ensure_password(self) -> bytes:
        """The administrator's password; made once and kept, so that a repeat finds its own."""
        line = await self._tools.read(self._password_file)
        if line is None:
            line = f"*:*:*:{settings.ADMINISTRATOR}:{secrets.token_urlsafe(32)}\n".encode()
            await self._tools.write(self._password_file, line)
        return line.strip().rpartition(b":")[2]

    async def _postmaster(self) -> int | None:
        """Pid of this cluster's running postmaster.

        Its working directory proves that the pid was not taken over by another process since.
        """
        lines = (await self._tools.read(self._cluster / "postmaster.pid") or b"").split(b"\n")
        if not lines[0].strip().isdigit():
            return None
        pid = int(lines[0])
        found = await self._tools.run(["readlink", f"/proc/{pid}/cwd"], timeout=_FILE_SECONDS)
        real = await self._tools.run(["readlink", "-f", str(self._cluster)], timeout=5)
        return pid if found.stdout and found.stdout == real.stdout else None

    async def _names(self, spec: EngineSpec, query: str) -> frozenset[str]:
        done = await self._must_sql(spec, query)
        return frozenset(name.decode() for name in done.split(b"\0") if name)

    async def _must_sql(
        self, spec: EngineSpec, script: str, *, database: str = "postgres"
    ) -> bytes:
        done = await self._psql(spec, script, database=database, timeout=_QUERY_SECONDS)
        if done.code:
            raise ConflictError(
                f"PostgreSQL refuses: {last_words(done.stderr)}", reason="ENGINE_COMMAND_FAILED"
            )
        return done.stdout

    async def _psql(
        self, spec: EngineSpec, script: str, *, timeout: float, database: str = "postgres"
    ) -> Completed:
        return await self._programs.psql(
            spec,
            script,
            socket_directory=self._run_directory,
            password_file=self._password_file,
            database=database,
            timeout=timeout,
        )

    async def _pg_ctl(self, spec: EngineSpec, *arguments: str, timeout: float) -> Completed:
        program = self._programs.path(spec, "pg_ctl")
        return await self._tools.run(
            [program, "-D", str(self._cluster), *arguments], timeout=timeout
        )
