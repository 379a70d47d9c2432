"""MariaDB behind the Engine protocol.

    <data_directory>/mysql           the cluster; appears whole, by rename
    <data_directory>/mariadb.cnf     the server's settings
    <data_directory>/tenant.cnf      the tenant's settings; with .good, the last it started with
    <data_directory>/server.pem      key and certificate, replaced as one
    <data_directory>/admin.cnf       the administrator's generated password, 0600
    <data_directory>/mariadb.lock    held while the server lives; its pid
    <data_directory>/mariadb.log     standard error, bounded by `tend`
    <data_directory>/tmp             what does not fit into memory, on the volume
    <run_directory>/mariadb.sock     the administrator's way in

All of it belongs to the engine's user. The agent keeps no copy of the password.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
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
from guestagent.engines.certificate import CERTIFICATE, ensure_certificate, note_use, shown_serial
from guestagent.engines.mariadb import settings, sql, variables
from guestagent.engines.mariadb.accounts import MariaDBAccounts
from guestagent.engines.mariadb.programs import Programs
from guestagent.engines.parameters import IncludeFile, check, text_of
from guestagent.engines.tools import Tools, check_socket, last_words
from guestagent.system import System
from trove_grpc.errors import ConflictError, DeadlineError, InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2

CAPABILITIES = Capabilities(
    manager="mariadb",
    actions=LIFE_ACTIONS | accounts.ACTIONS,
    user_hosts=True,
)
_INITIALISE_SECONDS = 120.0
# Beyond this a start goes on by itself (crash recovery) and shows as STARTING.
_START_SECONDS = 20.0
_STOP_SECONDS = 60.0
_QUERY_SECONDS = 30.0
_PROBE_SECONDS = 5.0
_POLL_SECONDS = 0.1


class MariaDB:
    """One server."""

    capabilities = CAPABILITIES

    def __init__(
        self,
        system: System,
        *,
        data_directory: Path,
        run_directory: Path,
        prefix: Path,
    ) -> None:
        self._tools = Tools(system)
        self._programs = Programs(self._tools, prefix=prefix)
        self._home = data_directory
        self._cluster = data_directory / "mysql"
        self._options = data_directory / "mariadb.cnf"
        self._administrator = data_directory / "admin.cnf"
        self._temporary = data_directory / "tmp"
        self._lock = data_directory / "mariadb.lock"
        self._log = data_directory / "mariadb.log"
        self._socket = run_directory / "mariadb.sock"
        self.accounts = MariaDBAccounts(self._must_sql)
        self.include = IncludeFile(self._tools, data_directory / "tenant.cnf")

    def check(
        self,
        spec: EngineSpec,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        self._programs.check(spec)
        check_socket(self._socket)
        try:
            self._server_options(spec)
        except ValueError as error:
            raise InvalidRequestError(f"listen address: {error}") from error
        if not spec.listen_addresses:
            raise InvalidRequestError("prepare names no address to listen on")
        for database in databases:
            sql.check_database(database)
        for user in users:
            sql.check_user(user)

    async def create(self, spec: EngineSpec, authority: DatabaseAuthority) -> None:
        await self._programs.check_version(spec)
        await self._tools.must(["mkdir", "--parents", "--mode=700", str(self._temporary)])
        if not await self._tools.exists(self._cluster):
            await self._initialise(spec)
        await ensure_certificate(self._tools, self._home, authority)
        await self.write_settings(spec)

    async def write_settings(self, spec: EngineSpec) -> None:
        await self.include.ensure()
        await self._tools.write(self._options, self._server_options(spec))

    async def start(self, spec: EngineSpec) -> None:
        argv = [self._programs.server(), f"--defaults-file={self._options}"]
        if not await self._tools.spawn(
            argv, directory=self._cluster, lock=self._lock, log=self._log
        ):
            return
        ends = asyncio.get_running_loop().time() + _START_SECONDS
        while asyncio.get_running_loop().time() < ends:
            found = await self.probe(spec)
            if found.process is Process.GONE:
                raise ConflictError(
                    f"MariaDB does not start: {await self._last_errors()}",
                    reason="ENGINE_START_FAILED",
                )
            if found.process is Process.ANSWERING:
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self, spec: EngineSpec) -> None:
        if not await self._tools.is_running(self._lock):
            return
        await self._tools.terminate(self._lock)
        if not await self._tools.has_ended(self._lock, within=_STOP_SECONDS):
            raise ConflictError(
                f"MariaDB does not stop within {_STOP_SECONDS:g} s: {await self._last_errors()}",
                reason="ENGINE_STOP_FAILED",
            )

    async def probe(self, spec: EngineSpec) -> Probe:
        if not await self._tools.is_running(self._lock):
            return Probe(process=Process.GONE, reason="MariaDB's process is gone")
        try:
            done = await self._programs.client(
                self._administrator, sql.VERSION, timeout=_PROBE_SECONDS
            )
        except DeadlineError as error:
            return Probe(process=Process.BLOCKED, reason=f"MariaDB does not answer: {error}")
        if done.code == 0:
            version = done.stdout.decode(errors="replace").strip().partition("-")[0]
            return Probe(process=Process.ANSWERING, version=version)
        said = last_words(done.stderr)
        # No socket yet: it opens after recovery.
        if "Can't connect" in said:
            return Probe(process=Process.STARTING, reason=f"MariaDB is on its way: {said}")
        return Probe(process=Process.BLOCKED, reason=f"MariaDB does not answer: {said}")

    async def apply(
        self,
        spec: EngineSpec,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        await self._must_sql(sql.create_databases(databases) + sql.create_users(users))

    async def configure(
        self, spec: EngineSpec, parameters: Sequence[engine_pb2.Parameter]
    ) -> list[str]:
        check(parameters, forbidden=settings.FORBIDDEN)
        values = {parameter.name: text_of(parameter) for parameter in parameters}
        before = await self.include.present()
        names = sorted({*values, *before, *await self.include.good()})
        known = variables.parse(await self._must_sql(variables.query(names)))
        variables.require_known(values, known)
        sizes = settings.sizes(self._server_options(spec))
        wanted = {p.name: variables.literal(p, values[p.name]) for p in parameters}
        dynamic = [known[name] for name in names if name in known and not known[name].is_static]
        try:
            await self._must_sql(
                variables.script(
                    variables.assign(v.name, wanted.get(v.name, variables.default(v, sizes)))
                    for v in dynamic
                )
            )
        except ConflictError:
            await self._must_sql(
                variables.script(variables.assign(v.name, variables.present(v)) for v in dynamic)
            )
            raise
        await self.write_settings(spec)
        await self.include.write(
            ("[mariadbd]", *(f'{name} = "{value}"' for name, value in values.items()))
        )
        present, good = await self.include.present(), await self.include.good()
        return [
            name
            for name in sorted({*present, *good})
            if name in known and known[name].is_static and present.get(name) != good.get(name)
        ]

    async def tend(self, spec: EngineSpec, authority: DatabaseAuthority) -> engine_pb2.VolumeUsage:
        await self._tools.bound_log(self._log)
        if await ensure_certificate(self._tools, self._home, authority) and (
            await self._tools.is_running(self._lock)
        ):
            await self._must_sql(sql.RELOAD_CERTIFICATE)
            await note_use(self._tools, self._home)
        return await self._tools.measure(self._home)

    async def certificate_serial(self) -> str:
        return await shown_serial(self._tools, self._home)

    def _server_options(self, spec: EngineSpec) -> bytes:
        return settings.server_options(
            spec,
            data_directory=self._cluster,
            temporary_directory=self._temporary,
            socket=self._socket,
            certificate=self._home / CERTIFICATE,
            include=self.include.path,
        )

    async def _initialise(self, spec: EngineSpec) -> None:
        password = await self._ensure_password()
        draft = self._home / "mysql.new"
        await self._tools.build(
            [
                *self._programs.initialiser(),
                f"--datadir={draft}",
                f"--tmpdir={self._temporary}",
                f"--innodb-log-file-size={settings.log_file_mib(spec)}M",
                *("--auth-root-authentication-method=normal", "--skip-test-db"),
                *("--skip-name-resolve", "--skip-log-bin", "--extra-file=/dev/stdin"),
            ],
            draft=draft,
            final=self._cluster,
            timeout=_INITIALISE_SECONDS,
            stdin=sql.administrator_only(_verifier(password)).encode(),
        )

    async def _ensure_password(self) -> str:
        """The administrator's password; made once and kept, so that a repeat finds its own."""
        known = await self._tools.read(self._administrator)
        if known is not None:
            return settings.password_of(known)
        password = secrets.token_urlsafe(32)
        options = settings.administrator_options(self._socket, password)
        await self._tools.write(self._administrator, options)
        return password

    async def _must_sql(self, script: str) -> bytes:
        done = await self._programs.client(self._administrator, script, timeout=_QUERY_SECONDS)
        if done.code:
            said = sql.without_verifiers(last_words(done.stderr))
            raise ConflictError(f"MariaDB refuses: {said}", reason="ENGINE_COMMAND_FAILED")
        return done.stdout

    async def _last_errors(self) -> str:
        """The errors at the end of the log, else its last lines."""
        log = (await self._tools.read(self._log) or b"")[-8000:]
        errors = [line for line in log.splitlines() if b"[ERROR]" in line]
        return last_words(b"\n".join(errors) or log[-2000:])


def _verifier(password: str) -> str:
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()
