"""PostgreSQL behind the Engine protocol.

    <data_directory>/pgdata          the cluster; appears whole, by rename
    <data_directory>/admin.pgpass    the administrator's generated password, 0600
    <data_directory>/postgresql.log  standard error, bounded by `tend`
    <run_directory>/.s.PGSQL.<port>  the administrator's way in

All of it belongs to the engine's user. The agent keeps no copy of the password.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from guestagent import keys
from guestagent.engines import (
    Capabilities,
    EngineSpec,
    IssueCertificate,
    Probe,
    Process,
)
from guestagent.engines.postgresql import settings, sql
from guestagent.engines.postgresql.programs import Programs, last_words
from guestagent.system import Completed, System
from trove_grpc import leaves
from trove_grpc.errors import ConflictError, InvalidRequestError, UnavailableError
from trove_grpc.gen.common.v1 import engine_pb2

CAPABILITIES = Capabilities(
    manager="postgresql",
    actions=frozenset({"prepare", "start", "stop", "restart", "ping"}),
    user_hosts=False,
)
_INITDB_SECONDS = 120.0
# Beyond this a start goes on by itself (crash recovery) and shows as STARTING.
_START_SECONDS = 20
_STOP_SECONDS = 60
_QUERY_SECONDS = 30.0
_PROBE_SECONDS = 5.0
_FILE_SECONDS = 30.0
_LOG_LIMIT_BYTES = 16 * 1024 * 1024
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
        self._system = system
        self._programs = Programs(system, directory=programs_directory)
        self._home = data_directory
        self._cluster = data_directory / "pgdata"
        self._password_file = data_directory / "admin.pgpass"
        self._log = data_directory / "postgresql.log"
        self._run_directory = run_directory

    def check(
        self,
        spec: EngineSpec,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        self._programs.check(spec)
        settings.check_socket_directory(self._run_directory, spec.port)
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

    async def create(self, spec: EngineSpec, issue: IssueCertificate) -> None:
        if await self._read(self._cluster / "PG_VERSION") is None:
            await self._initialise(spec)
        await self._ensure_certificate(issue)
        conf = settings.postgresql_conf(spec, self._run_directory)
        await self._write(self._cluster / "postgresql.conf", conf)
        await self._write(self._cluster / "pg_hba.conf", settings.pg_hba_conf())

    async def start(self, spec: EngineSpec) -> None:
        if await self._postmaster() is not None:
            return
        # What is left of a postmaster that is no more: its pid may belong to somebody else now,
        # and then PostgreSQL would refuse to start.
        await self._remove(self._cluster / "postmaster.pid")
        arguments = ["start", "-w", "-s", "-t", str(_START_SECONDS), "-l", str(self._log)]
        done = await self._pg_ctl(spec, *arguments, timeout=_START_SECONDS + 10)
        if done.code and await self._postmaster() is None:
            log = (await self._read(self._log) or b"")[-2000:]
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

    async def tend(self, spec: EngineSpec, issue: IssueCertificate) -> engine_pb2.VolumeUsage:
        await self._bound_log()
        if await self._ensure_certificate(issue):
            await self._pg_ctl(spec, "reload", "-s", timeout=_QUERY_SECONDS)
        # statvfs needs to pass the parents only; the directory itself is the engine's.
        volume = os.statvfs(self._home)
        measured = await self._programs.run(
            ["du", "--summarize", "--one-file-system", "--block-size=1", str(self._home)],
            timeout=_FILE_SECONDS,
        )
        used = measured.stdout.split()[:1]  # du ends with 1 when files vanish meanwhile
        return engine_pb2.VolumeUsage(
            total_bytes=volume.f_blocks * volume.f_frsize, used_bytes=int(used[0]) if used else 0
        )

    async def _initialise(self, spec: EngineSpec) -> None:
        """Create beside, then rename: a cluster exists whole or not at all."""
        password = await self._ensure_password()
        draft = self._cluster.with_name("pgdata.new")
        await self._remove(draft)
        await self._programs.must(
            [
                self._programs.path(spec, "initdb"),
                f"--pgdata={draft}",
                f"--username={settings.ADMINISTRATOR}",
                *("--auth=scram-sha-256", "--pwfile=/dev/stdin", "--data-checksums"),
                *("--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"),
            ],
            timeout=_INITDB_SECONDS,
            stdin=password + b"\n",
        )
        await self._programs.must(
            ["mv", "--no-target-directory", str(draft), str(self._cluster)], timeout=_FILE_SECONDS
        )
        await self._programs.must(["sync", str(self._home)], timeout=_FILE_SECONDS)

    async def _ensure_password(self) -> bytes:
        """The administrator's password; made once and kept, so that a repeat finds its own."""
        line = await self._read(self._password_file)
        if line is None:
            line = f"*:*:*:{settings.ADMINISTRATOR}:{secrets.token_urlsafe(32)}\n".encode()
            await self._write(self._password_file, line)
        return line.strip().rpartition(b":")[2]

    async def _ensure_certificate(self, issue: IssueCertificate) -> bool:
        """Have a certificate with a third of its life left; True when there is a new one.

        Key and chain are one file, replaced at once: there is no moment with a wrong pair. The
        key is stored before it is used, so that a repeat asks for the same certificate.
        """
        path, draft = self._cluster / "server.pem", self._cluster / "server.key.new"
        present = await self._read(path)
        if present is not None and not _is_due(present):
            return False
        known = await self._read(draft)
        key_pem, csr_der = await keys.request(known)
        if not known:
            await self._write(draft, key_pem)
        issued = await issue(csr_der)
        await self._write(self._cluster / "root.crt", issued.root_pem)
        await self._write(path, key_pem + issued.chain_pem)
        await self._remove(draft)
        return True

    async def _bound_log(self) -> None:
        """Keep one old log beside the present one; the server appends, so cutting is safe."""
        size = await self._programs.run(
            ["stat", "--format=%s", str(self._log)], timeout=_FILE_SECONDS
        )
        if size.code == 0 and int(size.stdout) > _LOG_LIMIT_BYTES:
            old = self._log.with_suffix(".log.1")
            await self._programs.must(["cp", str(self._log), str(old)], timeout=_FILE_SECONDS)
            await self._programs.must(
                ["truncate", "--size=0", str(self._log)], timeout=_FILE_SECONDS
            )

    async def _postmaster(self) -> int | None:
        """Pid of this cluster's running postmaster.

        Its working directory proves that the pid was not taken over by another process since.
        """
        lines = (await self._read(self._cluster / "postmaster.pid") or b"").split(b"\n")
        if not lines[0].strip().isdigit():
            return None
        pid = int(lines[0])
        found = await self._programs.run(["readlink", f"/proc/{pid}/cwd"], timeout=_FILE_SECONDS)
        real = await self._programs.run(["readlink", "-f", str(self._cluster)], timeout=5)
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
        return await self._programs.run(
            [program, "-D", str(self._cluster), *arguments], timeout=timeout
        )

    async def _read(self, path: Path) -> bytes | None:
        try:
            return await self._system.read_file(path)
        except OSError as error:
            raise UnavailableError(f"cannot read {path}: {error}") from error

    async def _write(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        try:
            await self._system.write_file(path, data, mode=mode)
        except OSError as error:
            raise UnavailableError(f"cannot write {path}: {error}") from error

    async def _remove(self, path: Path) -> None:
        await self._programs.must(["rm", "-rf", "--", str(path)], timeout=_FILE_SECONDS)


def _is_due(chain: bytes) -> bool:
    leaf = leaves.read(chain)
    life = leaf.not_valid_after - leaf.not_valid_before
    return dt.datetime.now(dt.UTC) >= leaf.not_valid_after - life / 3
