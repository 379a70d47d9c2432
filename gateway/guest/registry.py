"""The live sessions of this gateway: one per instance, two during a certificate's renewal.

    newcomer                                   the session there is
    same agent, same certificate          ->   replaced at once (it was half dead)
    same agent, another certificate       ->   kept: commands move after Confirm (handover)
    same agent, confirmed certificate     ->   replaced at once
    other boot                            ->   refused while the old one answers (connect.py),
                                               else replaced: a reboot

"Agent" is what Hello says: it separates accidents, not attackers. All methods are synchronous,
so nothing happens between a look and an act.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator

from gateway.guest import metrics
from gateway.guest.session import Ending, Session
from trove_grpc import errors
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

_HANDOVER = Ending(goodbye=guest_pb2.GOODBYE_REASON_HANDOVER)
_CONFIRMED_KEPT = 4096


class Registry:
    """Sessions by instance."""

    def __init__(self) -> None:
        self._current: dict[str, Session] = {}
        self._incoming: dict[str, Session] = {}  # renewed, not yet confirmed
        self._opening: set[str] = set()
        self._confirmed: OrderedDict[str, None] = OrderedDict()
        metrics.COMMANDS_WAITING.set_function(
            lambda: sum(len(session.commands) for session in self)
        )

    def __len__(self) -> int:
        return len(self._current) + len(self._incoming)

    def __iter__(self) -> Iterator[Session]:
        return iter([*self._current.values(), *self._incoming.values()])

    def current(self, instance_id: str) -> Session:
        """The session commands go to; raises SessionMovedError when there is none here."""
        session = self._current.get(instance_id)
        if session is None or not session.is_live:
            raise errors.SessionMovedError(
                f"this gateway holds no session of {instance_id}; look it up again",
                subject=instance_id,
            )
        return session

    def of(self, instance_id: str) -> list[Session]:
        """Every live session of an instance, the one with the commands first."""
        found = (self._current.get(instance_id), self._incoming.get(instance_id))
        return [session for session in found if session is not None and session.is_live]

    @contextlib.contextmanager
    def opening(self, instance_id: str) -> Iterator[None]:
        """Let one stream of an instance be admitted at a time."""
        if instance_id in self._opening:
            raise errors.UnavailableError(
                "another stream of this instance is being opened",
                reason="SESSION_OPENING",
                subject=instance_id,
                retry_after=1.0,
            )
        self._opening.add(instance_id)
        try:
            yield
        finally:
            self._opening.discard(instance_id)

    def add(self, session: Session) -> None:
        """Admit a session by the table above; ends those it replaces."""
        instance_id = session.instance_id
        current = self._current.get(instance_id)
        metrics.SESSIONS.inc()
        if current is None or not current.is_live:
            self._make_current(session)
            return
        if not current.is_same_agent(session.hello):
            self._make_current(session)
            return
        if current.serial == session.serial or session.serial in self._confirmed:
            self._make_current(session)
            return
        if (incoming := self._incoming.get(instance_id)) is not None:
            incoming.end(_HANDOVER)
        self._incoming[instance_id] = session

    def remove(self, session: Session) -> None:
        """Forget an ended session; its commands move, or are for the caller to repeat."""
        instance_id = session.instance_id
        metrics.SESSIONS.dec()
        if self._incoming.get(instance_id) is session:
            del self._incoming[instance_id]
        if self._current.get(instance_id) is session:
            del self._current[instance_id]
            if (incoming := self._incoming.pop(instance_id, None)) is not None:
                self._current[instance_id] = incoming
                incoming.adopt_commands(session)
        session.commands.fail(
            errors.SessionMovedError(
                "the guest's session ended; what was sent may have happened",
                reason="SESSION_ENDED",
                subject=instance_id,
            )
        )

    def confirm(self, instance_id: str, serial: str) -> None:
        """The guest's certificate became its current one: commands move to its session."""
        self._confirmed[serial] = None
        while len(self._confirmed) > _CONFIRMED_KEPT:
            self._confirmed.popitem(last=False)
        incoming = self._incoming.get(instance_id)
        if incoming is not None and incoming.serial == serial:
            self._make_current(self._incoming.pop(instance_id))

    def _make_current(self, session: Session) -> None:
        old = self._current.get(session.instance_id)
        self._current[session.instance_id] = session
        if old is None:
            return
        if old.is_same_agent(session.hello):
            session.adopt_commands(old)
            old.end(_HANDOVER)
        else:
            old.end(
                Ending(
                    errors.StaleError(
                        "the instance came back with another boot", reason="SESSION_REPLACED"
                    )
                )
            )
            if (incoming := self._incoming.pop(session.instance_id, None)) is not None:
                incoming.end(Ending(errors.StaleError("replaced", reason="SESSION_REPLACED")))
