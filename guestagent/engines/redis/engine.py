"""Redis behind the Engine protocol.

    <data_directory>/redis/            its working directory: the append-only file
    <data_directory>/redis.conf        written before each start
    <data_directory>/users.acl         who may do what; the server itself keeps it up to date
    <data_directory>/server.pem        key and certificate, replaced as one
    <data_directory>/admin.secret      the administrator's generated password, 0600
    <data_directory>/redis.log         bounded by `tend`
    <run_directory>/redis.sock         the administrator's way in

All of it belongs to the engine's user. The agent keeps no copy of the password.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509

from guestagent.engines import Capabilities, EngineSpec, IssueCertificate, Probe, Process
from guestagent.engines.redis import acl, settings
from guestagent.engines.redis.programs import Programs, last_words
from guestagent.system import System
from pki import requests
from trove_grpc.errors import ConflictError, DeadlineError, InvalidRequestError, UnavailableError
from trove_grpc.gen.common.v1 import engine_pb2

CAPABILITIES = Capabilities(
    manager="redis",
    actions=frozenset({"prepare", "start", "stop", "restart", "ping"}),
    user_hosts=False,
    named_databases=False,
)
# Beyond this a start goes on by itself (reading the append-only file) and shows as STARTING.
_START_SECONDS = 20.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.1
_COMMAND_SECONDS = 30.0
# Longer than busy-reply-threshold (5 s): a server busy with a script says so only then.
_PROBE_SECONDS = 8.0
_FILE_SECONDS = 30.0
_LOG_LIMIT_BYTES = 16 * 1024 * 1024
_VERSION = re.compile(r"\A(redis|valkey)_version:(?P<version>.+)\Z")


class Redis:
    """One server."""

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
        # As /proc shows it.
        self._home = data_directory.resolve()
        self._directory = self._home / "redis"
        self._conf = self._home / "redis.conf"
        self._acl_file = self._home / "users.acl"
        self._certificate = self._home / "server.pem"
        self._password_file = self._home / "admin.secret"
        self._log = self._home / "redis.log"
        self._socket = run_directory / "redis.sock"

    def check(
        self,
        spec: EngineSpec,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        self._programs.check(spec)
        settings.check_socket(self._socket)
        try:
            self._settings(spec)
        except ValueError as error:
            raise InvalidRequestError(f"listen address: {error}") from error
        if not spec.listen_addresses:
            raise InvalidRequestError("prepare names no address to listen on")
        acl.check_databases(databases)
        for user in users:
            acl.check_user(user)

    async def create(self, spec: EngineSpec, issue: IssueCertificate) -> None:
        await self._programs.check_version(spec)
        make = ["mkdir", "--parents", "--mode=700", str(self._directory)]
        await self._programs.must(make, timeout=_FILE_SECONDS)
        password = await self._ensure_password()
        present = await self._read(self._acl_file) or b""
        await self._write(self._acl_file, acl.file_with_administrator(present, password))
        await self._ensure_certificate(issue)
        await self._write(self._conf, self._settings(spec))

    async def start(self, spec: EngineSpec) -> None:
        if await self._processes():
            return
        await self._programs.must(
            [self._programs.server(), str(self._conf)], timeout=_COMMAND_SECONDS
        )
        # It has gone into the background, and may yet find that it cannot listen.
        ends = asyncio.get_running_loop().time() + _START_SECONDS
        while asyncio.get_running_loop().time() < ends:
            found = await self.probe(spec)
            if found.process is Process.ANSWERING:
                return
            if found.process is Process.GONE:
                log = (await self._read(self._log) or b"")[-2000:]
                raise ConflictError(
                    f"Redis does not start: {last_words(log)}", reason="ENGINE_START_FAILED"
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self, spec: EngineSpec) -> None:
        if not await self._processes():
            return
        # NOSAVE is about snapshots, of which there are none: the append-only file is finished.
        said = await self._say("SHUTDOWN NOSAVE NOW FORCE", timeout=_COMMAND_SECONDS)
        if said and (processes := await self._processes()):
            await self._programs.run(["kill", "-TERM", *processes], timeout=_FILE_SECONDS)
        ends = asyncio.get_running_loop().time() + _STOP_SECONDS
        while await self._processes():
            if asyncio.get_running_loop().time() >= ends:
                raise ConflictError(
                    f"Redis does not stop: {last_words(' '.join(said).encode())}",
                    reason="ENGINE_STOP_FAILED",
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def probe(self, spec: EngineSpec) -> Probe:
        said = await self._say("PING", "INFO server", timeout=_PROBE_SECONDS)
        if said[:1] == ["PONG"]:
            # Valkey tells Redis's version first, then its own.
            versions = [match["version"] for line in said if (match := _VERSION.match(line))]
            return Probe(process=Process.ANSWERING, version=versions[-1] if versions else "")
        words = said[0] if said else "it hangs up"
        if not await self._processes():
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
        acl.check_databases(databases)
        await self._must_say(*(acl.set_user(user) for user in users), "ACL SAVE")

    async def tend(self, spec: EngineSpec, issue: IssueCertificate) -> engine_pb2.VolumeUsage:
        await self._bound_log()
        await self._ensure_certificate(issue)
        if (await self.probe(spec)).process is Process.ANSWERING:
            # Each time: an agent killed between the file and this would never come back to it.
            path = acl.quote(str(self._certificate))
            await self._must_say(f"CONFIG SET tls-cert-file {path} tls-key-file {path}")
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

    def _settings(self, spec: EngineSpec) -> bytes:
        return settings.redis_conf(
            spec,
            directory=self._directory,
            certificate=self._certificate,
            acl_file=self._acl_file,
            log=self._log,
            socket=self._socket,
        )

    async def _ensure_password(self) -> bytes:
        """The administrator's password; made once and kept, so that a repeat finds its own."""
        password = await self._read(self._password_file)
        if password is None:
            password = secrets.token_urlsafe(32).encode()
            await self._write(self._password_file, password)
        return password

    async def _ensure_certificate(self, issue: IssueCertificate) -> None:
        """Have a certificate with a third of its life left.

        Key and chain are one file, replaced at once: there is no moment with a wrong pair. The
        key is stored before it is used, so that a repeat asks for the same certificate.
        """
        draft = self._home / "server.key.new"
        present = await self._read(self._certificate)
        if present is not None and not _is_due(present):
            return
        key_pem = await self._read(draft)
        if key_pem is None:
            key_pem = requests.key_pem(requests.new_key())
            await self._write(draft, key_pem)
        issued = await issue(requests.csr_der(requests.load_key(key_pem)))
        await self._write(self._certificate, key_pem + issued.chain_pem)
        await self._programs.must(["rm", "--force", str(draft)], timeout=_FILE_SECONDS)

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

    async def _processes(self) -> list[str]:
        """Pids of the server and its forks: nothing else works in that directory.

        Not the pid file: it comes late, stays after a kill, and its pid may be another's by then.
        """
        pattern = re.sub(r"([\\*?\[])", r"\\\1", str(self._directory))
        found = await self._programs.run(
            ["find", "/proc", "-maxdepth", "2", "-name", "cwd", "-lname", pattern],
            timeout=_FILE_SECONDS,
        )  # it ends with 1: other users' processes are not shown
        return [line.split("/")[2] for line in found.stdout.decode().splitlines()]

    async def _must_say(self, *commands: str) -> None:
        """Raise ConflictError unless the server answers each with OK."""
        said = await self._say(*commands, timeout=_COMMAND_SECONDS)
        if said != ["OK"] * len(commands):
            words = next((line for line in said if line != "OK"), "it hangs up")
            raise ConflictError(f"Redis refuses: {words}", reason="ENGINE_COMMAND_FAILED")

    async def _say(self, *commands: str, timeout: float) -> list[str]:
        """What the server answers, line by line; what went wrong when it does not."""
        password = await self._read(self._password_file)
        if password is None:
            return ["Could not connect: it has not been created"]
        try:
            return await self._programs.cli(
                commands, socket=self._socket, password=password, timeout=timeout
            )
        except DeadlineError as error:
            return [error.message]

    async def _read(self, path: Path) -> bytes | None:
        try:
            return await self._system.read_file(path)
        except OSError as error:
            raise UnavailableError(f"cannot read {path}: {error}") from error

    async def _write(self, path: Path, data: bytes) -> None:
        try:
            await self._system.write_file(path, data, mode=0o600)
        except OSError as error:
            raise UnavailableError(f"cannot write {path}: {error}") from error


def _is_due(chain: bytes) -> bool:
    leaf = x509.load_pem_x509_certificate(chain)
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    return dt.datetime.now(dt.UTC) >= leaf.not_valid_after_utc - life / 3
