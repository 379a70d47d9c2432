"""Whom the issuer wants renewed, and who must wait: what Watch says of guests.

A directive names certificates, not sessions: whoever holds such a certificate is told the window,
in its Welcome or in the middle of its session, once for each window. The guest picks its moment.
A directive that is lifted is not taken back: a renewal that comes early does no harm.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

from gateway.guest.registry import Registry
from gateway.guest.session import Session
from pki.profiles import GUEST_BACKDATE
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as watch_pb
from trove_grpc.identity import Identity

Matches = Callable[[watch_pb.RenewalDirective, Identity], bool]


class Directives:
    """What holds now; replaced as a whole by each word of the issuer."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._directives: tuple[watch_pb.RenewalDirective, ...] = ()
        self._quarantined: frozenset[str] = frozenset()

    def hear(self, response: watch_pb.WatchResponse) -> None:
        """Take in what Watch said; tells the sessions it means."""
        self._quarantined = frozenset(response.quarantined_instance_ids)
        directives = tuple(response.directives)
        if directives == self._directives:
            return
        self._directives = directives
        for session in self._registry:
            settings = self.settings_for(session)
            if settings is not None:
                session.change_settings(settings)

    def is_quarantined(self, instance_id: str) -> bool:
        return instance_id in self._quarantined

    def settings_for(self, session: Session) -> guest_pb2.Settings | None:
        """The windows this session has not been told yet, or None."""
        settings = guest_pb2.Settings()
        agent = _window(self._directives, session.caller, _means_agent)
        if agent is not None and session.told_windows.is_new("agent", agent):
            settings.renewal_window.CopyFrom(agent)
        engine = _window(self._directives, session.caller, _means_engine)
        if engine is not None and session.told_windows.is_new("engine", engine):
            settings.engine_renewal_window.CopyFrom(engine)
        return settings if settings.ByteSize() else None


def _window(
    directives: Sequence[watch_pb.RenewalDirective], caller: Identity, means: Matches
) -> trust_pb2.RenewalWindow | None:
    """Of several that mean it, the window that begins first."""
    windows = [each.window for each in directives if means(each, caller)]
    return min(windows, key=lambda each: each.start_time.ToNanoseconds(), default=None)


def _means_agent(directive: watch_pb.RenewalDirective, caller: Identity) -> bool:
    if directive.target != watch_pb.RENEWAL_TARGET_AGENT or not _names(directive, caller):
        return False
    if directive.below_generation and caller.generation >= directive.below_generation:
        return False
    if not directive.HasField("issued_before") or caller.not_valid_before is None:
        return True
    issued = caller.not_valid_before + GUEST_BACKDATE
    return issued < directive.issued_before.ToDatetime(dt.UTC)


def _means_engine(directive: watch_pb.RenewalDirective, caller: Identity) -> bool:
    """The gateway knows no engine's certificate: the agent compares for itself."""
    return directive.target == watch_pb.RENEWAL_TARGET_ENGINE and _names(directive, caller)


def _names(directive: watch_pb.RenewalDirective, caller: Identity) -> bool:
    return not directive.instance_ids or caller.instance_id in directive.instance_ids
