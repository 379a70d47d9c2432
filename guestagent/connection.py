"""Keeps one session open: enrols, connects, reconnects, renews before expiry, recovers after it.

Of several gateways one is chosen at random; when it does not answer, or has let us go, the next
one's turn comes.

When to dial next is said in guestagent/reconnect.py. Nothing is ever given up: an outage of the
control plane ends some day.

Renewal makes before it breaks: ask for the next certificate, open a second session with it,
confirm it there, then let go of the first session.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from guestagent import clock
from guestagent.config import Config
from guestagent.identity import GuestIdentity
from guestagent.outbox import Outbox
from guestagent.reachability import is_listening
from guestagent.reconnect import Reconnect
from guestagent.recovery import Recovery
from guestagent.session import Listener, Session
from trove_grpc.client import PeerChannel, open_channel, open_enrolment_channel
from trove_grpc.errors import (
    ConflictError,
    DeadlineError,
    OverloadedError,
    PermissionDeniedError,
    TroveError,
    UnauthenticatedError,
    UnavailableError,
)
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.guest.v1 import enrolment_service_pb2_grpc, identity_service_pb2_grpc
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as session_pb2
from trove_grpc.names import Role
from trove_grpc.process import wait_or_timeout
from trove_grpc.redaction import Secret

log = logging.getLogger(__name__)

_NOBODY_LISTENS = "NOBODY_LISTENS"
_TOKEN_POLL_SECONDS = 1.0
_HANDOVER_SECONDS = 10.0
# A failed renewal is tried again after a tenth of what is left, within these bounds.
_RENEWAL_RETRY_SECONDS = (1.0, 600.0)


class Connection:
    """The agent's way to the control plane."""

    def __init__(
        self,
        config: Config,
        identity: GuestIdentity,
        outbox: Outbox,
        *,
        listener: Listener,
        hello: Callable[[], session_pb2.Hello],
    ) -> None:
        self._config = config
        self._identity = identity
        self._outbox = outbox
        self._listener = listener
        self._hello = hello
        self._session: Session | None = None
        self._peer = PeerChannel(
            config.guest_endpoints, identity=identity.directory, server_role=Role.GATEWAY
        )
        self._recovery = Recovery(identity, config.enrolment_endpoints)
        # The first one is in use or next.
        self._endpoints = deque(random.sample(config.guest_endpoints, len(config.guest_endpoints)))
        self._refused_token = ""
        self.reconnect = Reconnect(
            window=config.reconnect_window.total_seconds(),
            first_pause=config.reconnect_backoff.total_seconds(),
            longest_pause=config.reconnect_backoff_limit.total_seconds(),
            now=asyncio.get_running_loop().time,
        )
        self._said_away = False
        self._window_changed = asyncio.Event()
        self._clock_problem = ""  # as said last
        self._renew_after = 0.0  # loop time
        self._newest_epoch = 0

    @property
    def is_open(self) -> bool:
        return self._session is not None

    def identity_stub(self) -> identity_service_pb2_grpc.IdentityServiceAsyncStub:
        """Calls with the present identity, on a channel that no ending session closes."""
        stub: Any = self._peer.stub(identity_service_pb2_grpc.IdentityServiceStub)
        return stub  # type: ignore[no-any-return]

    async def close(self) -> None:
        await self._peer.close()

    def on_renewal_window(self, window: trust_pb2.RenewalWindow) -> None:
        # A staged certificate has its own pick; this window is about the one in force.
        if not self._identity.directory.exists("next"):
            self._identity.pick_renewal(window)
            self._window_changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._ensure_identity(stop)
                if stop.is_set():
                    return
                session = await self._connect()
            except TroveError as error:
                await self._wait_after(error, stop)
                continue
            self.reconnect.session_opened()
            self._said_away = False
            self._identity.forget_token()
            await self._live(session, stop)
            self._endpoints.rotate(-1)
            if not stop.is_set():
                await wait_or_timeout(stop, self.reconnect.session_ended())

    async def _wait_after(self, error: TroveError, stop: asyncio.Event) -> None:
        """Say why there is no session, and let the time pass until the next try."""
        is_away = error.reason == _NOBODY_LISTENS
        if is_away:
            pause = self.reconnect.nobody_listened()
        else:
            pause = self.reconnect.refused(error.retry_after or 0.0)
        # While a gateway is away its agents dial often: one line tells it.
        log.log(
            logging.DEBUG if is_away and self._said_away else logging.WARNING,
            "no session: %s: %s; next try in %.1f s",
            error.reason,
            error.message,
            pause,
        )
        self._said_away = is_away
        if not is_away:
            await self._check_clock(error)
        await self._pause(pause, stop)

    async def _ensure_identity(self, stop: asyncio.Event) -> None:
        """Enrol or recover unless there is a certificate that may still work.

        Where there was none ever, wait for a token to come.
        """
        said = False
        while not self._identity.is_usable and not stop.is_set():
            if await self._enrol_if_possible():
                return
            if self._identity.is_known:
                await self._recovery.recover()
                return
            if not said:
                log.error(
                    "no usable identity and no unused enrolment token in %s; "
                    "mint a token for instance %s and put it there",
                    self._config.token_file,
                    self._config.instance_id,
                )
                said = True
            await wait_or_timeout(stop, _TOKEN_POLL_SECONDS)

    async def _connect(self) -> Session:
        """Open a session, with the staged certificate if a renewal was interrupted."""
        is_valid = self._identity.is_valid("current")
        if self._identity.directory.exists("next") and (self._may_renew_in() <= 0 or not is_valid):
            try:
                return await self._connect_with_next()
            except TroveError as error:
                log.warning("the next certificate is not accepted: %s", error.message)
                if not is_valid or error.reason == _NOBODY_LISTENS:
                    raise
                self._postpone_renewal()
        try:
            return await self._open("current")
        except (UnauthenticatedError, PermissionDeniedError, ConflictError):
            # Rebuilt from outside: a token that waits beside a refused certificate is the way.
            await self._enrol_if_possible()
            raise

    async def _check_clock(self, error: TroveError) -> None:
        """After a refusal that a wrong clock may explain: learn the time, name the problem."""
        if not isinstance(error, (UnavailableError, UnauthenticatedError)):
            return
        problem = ""
        if not self._identity.time_is_fresh and self._identity.is_known:
            try:
                await self._recovery.ask_time()
            except TroveError:
                directory = self._identity.directory
                problem = await clock.explain(self._config.enrolment_endpoints, directory)
        problem = problem or self._identity.clock_problem
        if problem and problem != self._clock_problem:
            log.error("%s; set the clock, nothing else is needed", problem)
        self._clock_problem = problem

    async def _pause(self, seconds: float, stop: asyncio.Event) -> None:
        """Wait, but not beyond the arrival of a token that could help."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while (left := ends - loop.time()) > 0:
            if await wait_or_timeout(stop, min(left, _TOKEN_POLL_SECONDS)):
                return
            if not self._identity.is_usable and self._unspent_token() is not None:
                return

    def _unspent_token(self) -> Secret | None:
        token = self._identity.read_token()
        return None if token is None or token.reveal() == self._refused_token else token

    async def _enrol_if_possible(self) -> bool:
        """Whether there was a token that is not known to be spent."""
        token = self._unspent_token()
        if token is None:
            return False
        try:
            async with open_enrolment_channel(
                self._config.enrolment_endpoints, self._identity.directory
            ) as channel:
                stub: Any = enrolment_service_pb2_grpc.EnrolmentServiceStub(channel)
                await self._identity.enrol(token, stub)
        except UnauthenticatedError:
            # It will not get better by asking again, and asking locks it.
            self._refused_token = token.reveal()
            raise
        return True

    async def _connect_with_next(self) -> Session:
        if not self._identity.is_valid("next"):
            # Kept: should it be the one in force by now, it is what we recover from.
            raise UnauthenticatedError("it has expired", reason="CERTIFICATE_EXPIRED")
        try:
            session = await self._open("next")
        except UnauthenticatedError as error:
            # Expired by the gateway's clock: that may be wrong.
            if error.reason != "CERTIFICATE_EXPIRED":
                self._identity.discard_next()
            raise
        try:
            await self._identity.confirm_next(session.identity_stub)
        except BaseException:
            await session.abandon()
            raise
        return session

    async def _open(self, slot: str) -> Session:
        """A session with the first gateway that answers, beginning with the present one.

        A successor opens where its predecessor is, so that the commands under way stay there.
        """
        failed: list[TroveError] = []
        for _ in range(len(self._endpoints)):
            try:
                return await self._open_at(self._endpoints[0], slot)
            except (UnavailableError, DeadlineError, OverloadedError) as error:
                failed.append(error)
                self._endpoints.rotate(-1)
        # An answer says more than that another gateway is away.
        failed.sort(key=lambda error: error.reason == _NOBODY_LISTENS)
        raise failed[0] if failed else UnavailableError("no gateway is configured")

    async def _open_at(self, endpoint: str, slot: str) -> Session:
        if not await is_listening(endpoint):
            raise UnavailableError(
                f"nothing listens at the gateway's {endpoint}", reason=_NOBODY_LISTENS
            )
        channel = open_channel(
            [endpoint], self._identity.directory, server_role=Role.GATEWAY, slot=slot
        )
        session = Session(
            channel,
            outbox=self._outbox,
            listener=self._listener,
            resend_after=self._config.resend_interval.total_seconds(),
        )
        await session.open(self._hello())
        self._newest_epoch = session.epoch
        log.info("session %d opened with the %s certificate", session.epoch, slot)
        return session

    async def _live(self, session: Session, stop: asyncio.Event) -> None:
        """Until the session and its successors end, or `stop`."""
        stopping = asyncio.create_task(stop.wait(), name="stopping")
        running = self._begin(session)
        older: set[asyncio.Task[None]] = set()
        try:
            while True:
                changed = asyncio.create_task(self._window_changed.wait(), name="window")
                await asyncio.wait(
                    {running, stopping, changed},
                    timeout=max(0.0, self._identity.renew_in(), self._may_renew_in()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                changed.cancel()
                self._window_changed.clear()
                if stopping.done() or running.done():
                    break
                if max(self._identity.renew_in(), self._may_renew_in()) > 0:
                    continue  # the window moved
                try:
                    successor = await self._renew(session)
                except TroveError as error:
                    if not self._identity.is_usable:
                        log.warning("the certificate expired before it was renewed: %s", error)
                        await session.close()
                        break  # the next turn recovers
                    self._postpone_renewal()
                    log.warning(
                        "renewal failed: %s; again in %.0f s", error.message, self._may_renew_in()
                    )
                    if self._newest_epoch != session.epoch:
                        # A later session was opened and lost: nobody listens to this one now.
                        await session.close()
                        break
                    continue
                self._renew_after = 0.0
                older.add(self._retire(session, running))
                session, running = successor, self._begin(successor)
            self._session = None
            if stopping.done():
                await session.close()
            await _outcome(running, session)
        finally:
            self._session = None
            stopping.cancel()
            for task in (running, *older):
                task.cancel()
            await asyncio.gather(stopping, running, *older, return_exceptions=True)

    def _begin(self, session: Session) -> asyncio.Task[None]:
        self._session = session
        session.take_over()
        return asyncio.create_task(session.run(), name=f"session-{session.epoch}")

    async def _renew(self, present: Session) -> Session:
        await self._identity.request_next(self.identity_stub())
        # What is told from here on must not be older than the successor's Hello.
        present.hand_over()
        try:
            return await self._connect_with_next()
        except BaseException:
            present.take_over()
            raise

    def _may_renew_in(self) -> float:
        """Seconds until a renewal that failed may be tried again; not above 0 when it may."""
        return self._renew_after - asyncio.get_running_loop().time()

    def _postpone_renewal(self) -> None:
        low, high = _RENEWAL_RETRY_SECONDS
        pause = min(high, max(low, self._identity.expires_in() / 10))
        self._renew_after = asyncio.get_running_loop().time() + pause

    def _retire(self, session: Session, running: asyncio.Task[None]) -> asyncio.Task[None]:
        """Let the old session hear what is still coming; the gateway ends it with Goodbye."""
        session.hand_over()

        async def outlive() -> None:
            await asyncio.wait({running}, timeout=_HANDOVER_SECONDS)
            if not running.done():
                await session.close()
            await _outcome(running, session)

        return asyncio.create_task(outlive(), name=f"retire-{session.epoch}")


async def _outcome(running: asyncio.Task[None], session: Session) -> None:
    """Say how a session ended; raises what is not the control plane's doing."""
    await asyncio.wait({running})
    # A stream that we cancel ends its reader as cancelled.
    error = None if running.cancelled() else running.exception()
    if error is not None and not isinstance(error, TroveError):
        raise error
    reason = session_pb2.GoodbyeReason.Name(session.goodbye).removeprefix("GOODBYE_REASON_")
    log.info("session %d ended: %s", session.epoch, error or reason)
