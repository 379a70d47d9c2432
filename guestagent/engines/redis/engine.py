"""Redis behind the Engine protocol.

    <data_directory>/redis/            its working directory: the append-only file
    <data_directory>/redis.conf        its settings
    <data_directory>/tenant.conf       the tenant's settings; with .good, the last it started with
    <data_directory>/users.acl         who may do what; the server itself keeps it up to date
    <data_directory>/server.pem        key and certificate, replaced as one
    <data_directory>/admin.secret      the administrator's generated password, 0600
    <data_directory>/redis.log         bounded by `tend`
    <data_directory>/redis.lock        held by the server as long as it lives
    <run_directory>/redis.sock         the administrator's way in

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
)
from guestagent.engines.certificate import CERTIFICATE, ensure_certificate, note_use, shown_serial
from guestagent.engines.parameters import IncludeFile, check, text_of
from guestagent.engines.redis import acl, settings
from guestagent.engines.redis.programs import Programs
from guestagent.engines.tools import Tools, check_socket, last_words
from guestagent.system import System
from trove_grpc.errors import ConflictError, DeadlineError, InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2

CAPABILITIES = Capabilities(
    manager="redis",
    actions=LIFE_ACTIONS,
    user_hosts=False,
    databases=False,
)
# Beyond this a start goes on by itself (reading the append-only file) and shows as STARTING.
_START_SECONDS = 20.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.1
_COMMAND_SECONDS = 30.0
# Longer than busy-reply-threshold (5 s): a server busy with a script says so only then.
_PROBE_SECONDS = 8.0
_IMMUTABLE = re.compile(r"argument '(?P<name>[a-z0-9-]+)'\) - can't set immutable config")
_VERSION = re.compile(r"\A(redis|valkey)_version:(?P<version>.+)\Z")


class Redis:
    """One server."""

    capabilities = CAPABILITIES
    accounts = None

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
        self._directory = self._home / "redis"
        self._conf = self._home / "redis.conf"
        self._acl_file = self._home / "users.acl"
        self._certificate = self._home / CERTIFICATE
        self._password_file = self._home / "admin.secret"
        self._log = self._home / "redis.log"
        self._lock = self._home / "redis.lock"
        self._socket = run_directory / "redis.sock"
        self.include = IncludeFile(self._tools, self._home / "tenant.conf")

    def check(
        self,
        spec: EngineSpec,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        self._programs.check(spec)
        check_socket(self._socket)
        try:
            self._settings(spec)
        except ValueError as error:
            raise InvalidRequestError(f"listen address: {error}") from error
        if not spec.listen_addresses:
            raise InvalidRequestError("prepare names no address to listen on")
        for user in users:
            acl.check_user(user)

    async def create(self, spec: EngineSpec, authority: DatabaseAuthority) -> None:
        await self._programs.check_version(spec)
        await self._tools.must(["mkdir", "--parents", "--mode=700", str(self._directory)])
        password = await self._ensure_password()
        present = await self._tools.read(self._acl_file) or b""
        await self._tools.write(self._acl_file, acl.file_with_administrator(present, password))
        await ensure_certificate(self._tools, self._home, authority)
        await self.write_settings(spec)

    async def write_settings(self, spec: EngineSpec) -> None:
        await self.include.ensure()
        await self._tools.write(self._conf, self._settings(spec))

    async def start(self, spec: EngineSpec) -> None:
        is_new = await self._tools.spawn(
            [self._programs.server(), str(self._conf)],
            directory=self._directory,
            lock=self._lock,
            log=self._log,
        )
        ends = asyncio.get_running_loop().time() + _START_SECONDS
        while is_new and asyncio.get_running_loop().time() < ends:
            found = await self.probe(spec)
            if found.process is Process.ANSWERING:
                return
            if found.process is Process.GONE:
                log = (await self._tools.read(self._log) or b"")[-2000:]
                raise ConflictError(
                    f"Redis does not start: {last_words(log)}", reason="ENGINE_START_FAILED"
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self, spec: EngineSpec) -> None:
        if not await self._tools.is_running(self._lock):
            return
        # NOSAVE is about snapshots, of which there are none: the append-only file is finished.
        said = await self._say("SHUTDOWN NOSAVE NOW FORCE", timeout=_COMMAND_SECONDS)
        if said:
            await self._tools.terminate(self._lock)
        if not await self._tools.has_ended(self._lock, within=_STOP_SECONDS):
            raise ConflictError(
                f"Redis does not stop: {' '.join(said) or 'it was asked to'}",
                reason="ENGINE_STOP_FAILED",
            )

    async def probe(self, spec: EngineSpec) -> Probe:
        said = await self._say("PING", "INFO server", timeout=_PROBE_SECONDS)
        if said[:1] == ["PONG"]:
            # Valkey tells Redis's version first, then its own.
            versions = [match["version"] for line in said if (match := _VERSION.match(line))]
            return Probe(process=Process.ANSWERING, version=versions[-1] if versions else "")
        words = said[0] if said else "it hangs up"
        if not await self._tools.is_running(self._lock):
            return Probe(process=Process.GONE, reason="Redis's process is gone")
        if words.startswith(("LOADING", "Could not connect")):
            return Probe(process=Process.STARTING, reason=f"Redis is on its way: {words}")
        return Probe(process=Process.BLOCKED, reason=f"Redis does not answer: {words}")

    async def apply(
        self,
        spec: EngineSpec,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        await self._must_say(*(acl.set_user(user) for user in users), "ACL SAVE")

    async def configure(
        self, spec: EngineSpec, parameters: Sequence[engine_pb2.Parameter]
    ) -> list[str]:
        check(parameters, forbidden=settings.FORBIDDEN)
        values = {p.name: text_of(p, true="yes", false="no") for p in parameters}
        good = await self.include.good()
        names = {*values, *await self.include.present(), *good}
        defaults = settings.defaults(spec)
        known = {name: defaults[name] for name in sorted(names) if name in defaults}
        static = await self._set(known | values)
        await self.write_settings(spec)
        await self.include.write(f'{name} "{value}"' for name, value in values.items())
        present = await self.include.present()
        return [name for name in sorted(static) if present.get(name) != good.get(name)]

    async def tend(self, spec: EngineSpec, authority: DatabaseAuthority) -> engine_pb2.VolumeUsage:
        await self._tools.bound_log(self._log)
        is_new = await ensure_certificate(self._tools, self._home, authority)
        if is_new and (await self.probe(spec)).process is Process.ANSWERING:
            path = acl.quote(str(self._certificate))
            await self._must_say(f"CONFIG SET tls-cert-file {path} tls-key-file {path}")
            await note_use(self._tools, self._home)
        return await self._tools.measure(self._home)

    async def certificate_serial(self) -> str:
        return await shown_serial(self._tools, self._home)

    def _settings(self, spec: EngineSpec) -> bytes:
        return settings.redis_conf(
            spec,
            directory=self._directory,
            certificate=self._certificate,
            acl_file=self._acl_file,
            socket=self._socket,
            include=self.include.path,
        )

    async def _set(self, values: Mapping[str, str]) -> set[str]:
        """Set all or, where one is refused, none; returns the names only a start can set.

        CONFIG SET is atomic, and names the first argument that it cannot set while it runs.
        """
        static: set[str] = set()
        while left := {name: value for name, value in values.items() if name not in static}:
            pairs = " ".join(f"{name} {acl.quote(value)}" for name, value in left.items())
            said = await self._say(f"CONFIG SET {pairs}", timeout=_COMMAND_SECONDS)
            if said == ["OK"]:
                break
            words = " ".join(said) or "it hangs up"
            immutable = _IMMUTABLE.search(words)
            if immutable is None or immutable["name"] not in left:
                raise ConflictError(f"Redis refuses: {words}", reason="ENGINE_COMMAND_FAILED")
            static.add(immutable["name"])
        return static

    async def _ensure_password(self) -> bytes:
        """The administrator's password; made once and kept, so that a repeat finds its own."""
        password = await self._tools.read(self._password_file)
        if password is None:
            password = secrets.token_urlsafe(32).encode()
            await self._tools.write(self._password_file, password)
        return password

    async def _must_say(self, *commands: str) -> None:
        """Raise ConflictError unless the server answers each with OK."""
        said = await self._say(*commands, timeout=_COMMAND_SECONDS)
        if said != ["OK"] * len(commands):
            words = next((line for line in said if line != "OK"), "it hangs up")
            raise ConflictError(f"Redis refuses: {words}", reason="ENGINE_COMMAND_FAILED")

    async def _say(self, *commands: str, timeout: float) -> list[str]:
        """What the server answers, line by line; what went wrong when it does not."""
        password = await self._tools.read(self._password_file)
        if password is None:
            return ["Could not connect: it has not been created"]
        try:
            return await self._programs.cli(
                commands, socket=self._socket, password=password, timeout=timeout
            )
        except DeadlineError as error:
            return [error.message]
