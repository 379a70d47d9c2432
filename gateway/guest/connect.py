"""GuestSessionService: who may open a stream, and what its messages mean."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from google.protobuf import duration_pb2, timestamp_pb2
from grpc import aio

from gateway.guest import metrics
from gateway.guest.config import Config
from gateway.guest.connections import peer_name
from gateway.guest.directives import Directives
from gateway.guest.directory import Directory
from gateway.guest.limits import Allowance
from gateway.guest.registry import Registry
from gateway.guest.session import Ending, Limits, Session
from gateway.guest.sightings import Reporter, clock_skew
from gateway.guest.uplink import Uplink
from pki import shared_metrics
from pki.feed import DenialFeed
from trove_grpc import context, errors
from trove_grpc.gen.conductor.v1 import report_service_pb2 as report_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2_grpc as guest_rpc
from trove_grpc.identity import Identity, check_validity

log = logging.getLogger(__name__)

_MAX_TEXT = 256
_KILLED = frozenset({"CERTIFICATE_DENIED", "CERTIFICATE_EXPIRED"})


class GuestSessionService(guest_rpc.GuestSessionServiceServicer):
    """Admits guests' streams and passes on what they say."""

    def __init__(
        self,
        config: Config,
        *,
        registry: Registry,
        directory: Directory,
        uplink: Uplink,
        feed: DenialFeed,
        directives: Directives,
        reporter: Reporter,
        bundle_version: Callable[[], int],
    ) -> None:
        self._config = config
        self._registry = registry
        self._directory = directory
        self._uplink = uplink
        self._feed = feed
        self._directives = directives
        self._reporter = reporter
        self._bundle_version = bundle_version
        self._connects = Allowance(
            per_second=config.connects_per_minute / 60, burst=config.connects_per_minute
        )
        self._calls: Counter[str] = Counter()
        self._limits = Limits(
            commands=config.command_limit,
            unacknowledged=config.unacknowledged_limit,
            messages_per_second=config.messages_per_second,
            write_stall=config.write_stall.total_seconds(),
        )

    async def Connect(self, request_iterator: Any, context_: Any) -> None:  # type: ignore[override]
        """One session, from Hello to the reason it ends."""
        caller = context.caller()
        with context.bound(instance=caller.instance_id, tenant=caller.tenant_id):
            self._count(caller, context_)
            self._feed.require_loaded()
            if (wait := self._connects.take(caller.instance_id)) > 0:
                raise errors.OverloadedError(
                    "this instance opens streams too often", retry_after=wait
                )
            hello = await self._read_hello(context_)
            with self._registry.opening(caller.instance_id):
                session, opened = await self._admit(caller, hello, peer_name(context_.peer()))
            log.info("session %d open, certificate %s", session.epoch, session.serial)
            try:
                session.welcome(self._welcome(session, opened))
                self._reporter.saw(session)
                await session.run(context_, self._receive, now=dt.datetime.now(dt.UTC))
            finally:
                session.end(Ending())  # no effect unless the call was cancelled
                self._leave(session)

    def _count(self, caller: Identity, peer: Any) -> None:
        """Bound the calls of one instance.

        A status reaches nobody behind a closed flow-control window, and until the connection
        ends such a call stays open: we let the session go, the call only ends with its peer.
        """
        instance_id = caller.instance_id
        self._calls[instance_id] += 1

        def ended(_peer: Any) -> None:
            self._calls[instance_id] -= 1
            if not self._calls[instance_id]:
                del self._calls[instance_id]

        peer.add_done_callback(ended)
        if self._calls[instance_id] > self._config.streams_per_instance:
            raise errors.OverloadedError(
                "this instance has too many streams open", subject=caller.uri, retry_after=60.0
            )

    async def _read_hello(self, peer: Any) -> guest_pb2.Hello:
        try:
            async with asyncio.timeout(self._config.hello_timeout.total_seconds()):
                message = await peer.read()
        except TimeoutError as error:
            raise errors.DeadlineError("no Hello came in time", reason="NO_HELLO") from error
        if message is aio.EOF or not message.HasField("hello"):
            raise errors.InvalidRequestError("a session begins with Hello", reason="NO_HELLO")
        hello: guest_pb2.Hello = message.hello
        for name in ("boot_id", "machine_id_hash", "agent_version"):
            if len(getattr(hello, name)) > _MAX_TEXT:
                raise errors.InvalidRequestError(f"{name} is longer than {_MAX_TEXT} characters")
        if not hello.boot_id:
            raise errors.InvalidRequestError("Hello without boot_id")
        return hello

    async def _admit(
        self, caller: Identity, hello: guest_pb2.Hello, peer: str
    ) -> tuple[Session, report_pb2.OpenSessionResponse]:
        await self._refuse_clone(caller, hello)
        opened = await self._directory.open(caller, hello)
        # Nothing waits between here and `add`: a denial or the certificate's end that came
        # meanwhile is seen here, a later one finds the session in the registry.
        check_validity(caller, dt.datetime.now(dt.UTC))
        if refusal := self._feed.denials.refusal(caller):
            self._directory.close(caller.instance_id, opened.session_epoch, refusal.reason)
            raise refusal
        session = Session(
            caller=caller,
            hello=hello,
            epoch=opened.session_epoch,
            limits=self._limits,
            clock_skew=clock_skew(hello),
            peer=peer,
        )
        self._registry.add(session)
        return session, opened

    async def _refuse_clone(self, caller: Identity, hello: guest_pb2.Hello) -> None:
        """Refuse another boot of the instance while the older stream answers."""
        for rival in self._registry.of(caller.instance_id):
            if rival.caller.tenant_id != caller.tenant_id:
                # No clone: one of the two names is false, and the conductor has seen the rival's.
                raise errors.PermissionDeniedError(
                    f"instance {caller.instance_id} is not one of tenant {caller.tenant_id}",
                    reason="TENANT_MISMATCH",
                    subject=caller.uri,
                )
            if rival.is_same_agent(hello) or not await self._answers(rival):
                continue
            shared_metrics.CLONES_SUSPECTED.inc()
            now = asyncio.get_running_loop().time()
            rival.suspected_until = now + self._config.clone_suspicion.total_seconds()
            log.error(
                "clone suspected: %s has a live stream of boot %r (certificate %s) and is dialled "
                "from boot %r (certificate %s); deny the instance if it is not yours",
                caller.uri,
                rival.hello.boot_id,
                rival.serial,
                hello.boot_id,
                caller.serial,
            )
            self._reporter.suspect(
                rival, caller.serial, f"boots {rival.hello.boot_id!r} and {hello.boot_id!r}"
            )
            raise errors.AlreadyExistsError(
                "another boot of this instance is connected and answers",
                reason="CLONE_SUSPECTED",
                subject=caller.uri,
            )

    async def _answers(self, session: Session) -> bool:
        seconds = self._config.clone_ping.total_seconds()
        command = guest_pb2.Command(
            command_id=f"ping-{uuid.uuid4()}",
            request_id=context.request_id(),
            ping=guest_pb2.PingAction(),
        )
        try:
            pending = session.submit(command, seconds)
        except errors.OverloadedError:
            return await session.is_heard_within(seconds)  # it has enough to answer
        try:
            return await session.is_heard_within(seconds)
        finally:
            session.commands.release(pending)

    def _welcome(
        self, session: Session, opened: report_pb2.OpenSessionResponse
    ) -> guest_pb2.Welcome:
        server_time = timestamp_pb2.Timestamp()
        server_time.GetCurrentTime()
        settings = guest_pb2.Settings(
            heartbeat_interval=opened.heartbeat_interval, reconnect_window=self.reconnect_window()
        )
        if (windows := self._directives.settings_for(session)) is not None:
            settings.MergeFrom(windows)
        return guest_pb2.Welcome(
            session_epoch=opened.session_epoch,
            server_time=server_time,
            settings=settings,
            bundle_version=self._bundle_version(),
        )

    def reconnect_window(self) -> duration_pb2.Duration:
        """Time over which all guests of this gateway should spread a reconnect."""
        seconds = max(
            self._config.reconnect_window.total_seconds(),
            len(self._registry) / self._config.reconnects_per_second,
        )
        window = duration_pb2.Duration()
        window.FromMilliseconds(int(seconds * 1000))
        return window

    def _leave(self, session: Session) -> None:
        self._registry.remove(session)
        self._reporter.left(session)
        self._uplink.forget(session)
        reason = session.ending.reason if session.ending else ""
        self._directory.close(session.instance_id, session.epoch, reason)
        metrics.SESSIONS_ENDED.labels(reason).inc()
        if reason in _KILLED:
            metrics.STREAMS_KILLED.labels(reason).inc()
        log.info("session %d ended: %s", session.epoch, reason)

    def _receive(self, session: Session, message: guest_pb2.ConnectRequest) -> None:
        kind = message.WhichOneof("message")
        if kind == "heartbeat":
            if session.note_holdings(message.heartbeat):
                self._reporter.saw(session)
            self._uplink.heartbeat(session, message.sequence, message.heartbeat)
        elif kind == "change":
            self._uplink.change(session, message.sequence, message.change)
        elif kind == "backup_update":
            self._uplink.backup_update(session, message.sequence, message.backup_update)
        elif kind == "command_result":
            # During a handover an agent may answer on either of its streams.
            streams = (session, *self._registry.of(session.instance_id))
            if not any(stream.commands.answer(message.command_result) for stream in streams):
                metrics.DROPPED.labels("late_command_result").inc()
        elif kind == "hello":
            raise errors.InvalidRequestError("a second Hello", reason="SECOND_HELLO")
        else:
            # A newer agent's message, or a log nobody here asked for.
            metrics.DROPPED.labels(kind or "unknown").inc()
