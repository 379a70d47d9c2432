"""One guest agent, without global state: a thousand run in one process.

Three loops side by side: the engine is kept up, commands are carried out, the control plane is
kept informed. The first two do not need the third: a database survives its control plane.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import uuid
from pathlib import Path

import guestagent
from guestagent.commands import Commands
from guestagent.config import Config
from guestagent.connection import Connection
from guestagent.database_authority import BundledAuthority
from guestagent.engines import Engine, EngineCertificate
from guestagent.identity import GuestIdentity, Self
from guestagent.journal import Journal
from guestagent.outbox import Outbox
from guestagent.record import RecordFile
from guestagent.watcher import Patience, Watcher
from trove_grpc import context
from trove_grpc.client import call
from trove_grpc.errors import TroveError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import (
    guest_session_service_pb2 as session_pb2,
)
from trove_grpc.gen.guest.v1 import identity_service_pb2
from trove_grpc.process import wait_or_timeout
from trove_grpc.tls import IdentityDirectory, remove_drafts

log = logging.getLogger(__name__)

_CALL_SECONDS = 20.0
_MIN_HEARTBEAT_SECONDS = 0.05
# For a look at the engine and a polite end of the stream; more would keep a stopping machine.
_FAREWELL_SECONDS = 3.0


class Agent:
    """The agent of one instance."""

    def __init__(self, config: Config, engine: Engine) -> None:
        self._config = config
        self._me = describe_self(config.instance_id)
        self.identity = GuestIdentity(
            IdentityDirectory(config.identity), config.token_file, self._me
        )
        loop = asyncio.get_running_loop()
        self.outbox = Outbox(now=loop.time)
        self._database_authority = BundledAuthority(
            self.identity,
            self._issue_engine_certificate,
            config.state_directory / "engine-renewal.json",
            spread=config.engine_renewal_spread,
            on_due=self._tend_soon,
        )
        self.watcher = Watcher(
            engine,
            RecordFile(config.state_directory / "engine.json"),
            patience=_patience(config),
            authority=self._database_authority,
            on_change=self._tell_change,
        )
        self.commands = Commands(
            self.watcher, Journal(config.state_directory / "journal"), self.outbox
        )
        self.connection = Connection(
            config, self.identity, self.outbox, listener=self, hello=self._hello
        )
        self._heartbeat_seconds = config.heartbeat_interval.total_seconds()
        self._heartbeat_changed = asyncio.Event()
        self._bundle_version = 0
        self._bundle_noticed = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; the engine is left running."""
        with context.bound(instance=self._config.instance_id):
            self._tidy()
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self.watcher.run(stop), name="watcher")
                connecting = group.create_task(self.connection.run(stop), name="connection")
                endless = [
                    group.create_task(self.commands.run(), name="commands"),
                    group.create_task(self._beat(), name="heartbeats"),
                    group.create_task(self._follow_bundle(), name="bundle"),
                ]
                await stop.wait()
                # A command under way is cut off here and finished by its repeat.
                for task in endless:
                    task.cancel()
                await asyncio.wait([watching, connecting], timeout=_FAREWELL_SECONDS)
                watching.cancel()
                connecting.cancel()
            self._database_authority.close()
            await self.connection.close()

    def _tend_soon(self) -> None:
        self.watcher.tend_soon()

    def _tidy(self) -> None:
        """Remove what an agent that was killed while it wrote has left."""
        self.identity.directory.tidy()
        for directory in (self._config.state_directory, self._config.state_directory / "journal"):
            remove_drafts(directory)

    # What a session tells us.

    def on_welcome(self, welcome: session_pb2.Welcome) -> None:
        self.identity.note_server_time(welcome.server_time)
        self.on_settings(welcome.settings)
        self.on_bundle(welcome.bundle_version)

    def on_command(self, command: session_pb2.Command) -> None:
        self.commands.accept(command)

    def on_settings(self, settings: session_pb2.Settings) -> None:
        if settings.HasField("heartbeat_interval"):
            seconds = settings.heartbeat_interval.ToTimedelta().total_seconds()
            self._heartbeat_seconds = max(_MIN_HEARTBEAT_SECONDS, seconds)
            self._heartbeat_changed.set()
        if settings.HasField("reconnect_window"):
            window = settings.reconnect_window.ToTimedelta().total_seconds()
            self.connection.reconnect.window = window
        if settings.HasField("renewal_window"):
            self.connection.on_renewal_window(settings.renewal_window)
        if settings.HasField("engine_renewal_window"):
            self._database_authority.note_window(settings.engine_renewal_window)

    def on_bundle(self, version: int) -> None:
        self._bundle_version = max(version, self._bundle_version)
        if self._bundle_version > self.identity.directory.bundle().version:
            self._bundle_noticed.set()

    # What we tell.

    def _hello(self) -> session_pb2.Hello:
        hello = session_pb2.Hello(
            boot_id=self._me.boot_id,
            machine_id_hash=self._me.machine_id_hash,
            agent_version=self._me.agent_version,
            capabilities=sorted(self.watcher.engine.capabilities.actions),
            bundle_version=self.identity.directory.bundle().version,
            observation=self._observation(),
            engine_serial=self.watcher.engine_serial,
        )
        hello.guest_time.GetCurrentTime()
        return hello

    def _observation(self) -> engine_pb2.Observation:
        """What the engine is like; where nothing is wrong with it, what else is."""
        observation = self.watcher.observation()
        if observation.state == engine_pb2.ENGINE_STATE_HEALTHY and not observation.reason:
            observation.reason = self.identity.problem
        return observation

    def _tell_change(self) -> None:
        change = session_pb2.Change(change_id=str(uuid.uuid4()), observation=self._observation())
        self.outbox.put_change(change)

    async def _beat(self) -> None:
        """A heartbeat each interval, from a moment of its own so that a fleet does not pulse."""
        wait = self._heartbeat_seconds * random.random()  # noqa: S311  a spread
        while True:
            self._heartbeat_changed.clear()
            if await wait_or_timeout(self._heartbeat_changed, wait):
                wait = min(wait, self._heartbeat_seconds)
                continue
            if self.connection.is_open:
                self.outbox.put_heartbeat(
                    session_pb2.Heartbeat(
                        observation=self._observation(),
                        bundle_version=self.identity.directory.bundle().version,
                        engine_serial=self.watcher.engine_serial,
                    )
                )
            wait = self._heartbeat_seconds

    async def _follow_bundle(self) -> None:
        """Fetch a newer bundle when there is one, not the whole fleet in one moment."""
        said = ""
        while True:
            await self._bundle_noticed.wait()
            await asyncio.sleep(0.1 + self._heartbeat_seconds * random.random())  # noqa: S311
            try:
                response = await call(
                    self.connection.identity_stub().GetTrustBundle,
                    identity_service_pb2.GetTrustBundleRequest(),
                    timeout=_CALL_SECONDS,
                )
                if self.identity.directory.store_bundle(response.bundle):
                    log.info("the trust bundle is now version %d", response.bundle.version)
                    self.watcher.tend_soon()  # the engine's roots or its signer may be others
                said = ""
            except TroveError as error:  # the notice stays; ask again at the next turn
                if error.message != said:
                    log.warning("the trust bundle was not refreshed: %s", error.message)
                said = error.message
            if self._bundle_version <= self.identity.directory.bundle().version:
                self._bundle_noticed.clear()

    async def _issue_engine_certificate(self, csr_der: bytes) -> EngineCertificate:
        response = await call(
            self.connection.identity_stub().IssueEngineCertificate,
            identity_service_pb2.IssueEngineCertificateRequest(csr_der=csr_der),
            timeout=_CALL_SECONDS,
            retry=True,
        )
        return EngineCertificate(chain_pem=response.chain_pem, root_pem=response.root_pem)


def describe_self(instance_id: str) -> Self:
    """Boot and machine as this agent sees them."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    machine = Path("/etc/machine-id")
    text = machine.read_text().strip() if machine.exists() else boot
    return Self(
        instance_id=instance_id,
        boot_id=f"{boot}.{uuid.uuid4()}",
        machine_id_hash=hashlib.sha256(text.encode()).hexdigest(),
        agent_version=guestagent.__version__,
    )


def _patience(config: Config) -> Patience:
    return Patience(
        health_interval=config.health_interval.total_seconds(),
        restart_limit=config.engine_restart_limit,
        stable_after=config.engine_stable_after.total_seconds(),
        backoff=config.engine_restart_backoff.total_seconds(),
        backoff_limit=config.engine_restart_backoff_limit.total_seconds(),
    )
