"""Who was heard of when: the latest report of every guest of this conductor's gateways.

Heartbeats are compared in memory and persisted only when they say something new, or when the
persisted one gets old; so the database alone is up to `presence_persist_interval` behind, and a
reader merges both. Where two conductors serve, each sees the other's guests through the database:
the higher epoch stands, then the later report.

Order is (epoch, sequence): a report of a lower epoch, or of a sequence not higher than the last
one's, is dropped. Epochs come from `OpenSession` alone, through the database.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from conductor import metrics
from conductor.models import GuestPresence
from trove_grpc.gen.common.v1 import engine_pb2

_REASON_LENGTH = 1024
_VERSION_LENGTH = 64
_STATE_PREFIX = "ENGINE_STATE_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What is known of one guest."""

    session_epoch: int = 0
    sequence: int = 0
    engine_state: str = ""  # short name; empty: never reported
    reason: str = ""
    engine_version: str = ""
    start_count: int = 0
    volume_total_bytes: int = 0
    volume_used_bytes: int = 0
    last_report_time: dt.datetime | None = None

    @classmethod
    def from_row(cls, row: GuestPresence) -> Presence:
        return cls(**{name: getattr(row, name) for name in cls.__slots__})

    @classmethod
    def from_observation(
        cls,
        observation: engine_pb2.Observation,
        *,
        session_epoch: int,
        sequence: int,
        now: dt.datetime,
    ) -> Presence:
        """Guests choose these texts and numbers, so they are cut to what a column takes."""
        return cls(
            session_epoch=session_epoch,
            sequence=sequence,
            engine_state=_state_name(observation.state),
            reason=clean(observation.reason, _REASON_LENGTH),
            engine_version=clean(observation.engine_version, _VERSION_LENGTH),
            start_count=max(0, observation.start_count),
            volume_total_bytes=max(0, observation.volume.total_bytes),
            volume_used_bytes=max(0, observation.volume.used_bytes),
            last_report_time=now,
        )

    def row(self, instance_id: str) -> dict[str, Any]:
        return {
            "instance_id": instance_id,
            **{name: getattr(self, name) for name in self.__slots__},
        }

    def observation(self) -> engine_pb2.Observation | None:
        """The last observation; None before the first report."""
        if self.last_report_time is None:
            return None
        observation = engine_pb2.Observation(
            state=_state_value(self.engine_state),
            reason=self.reason,
            engine_version=self.engine_version,
            start_count=self.start_count,
        )
        if self.volume_total_bytes:
            observation.volume.total_bytes = self.volume_total_bytes
            observation.volume.used_bytes = self.volume_used_bytes
        return observation

    def silence(self, now: dt.datetime) -> dt.timedelta | None:
        """Time since the last report; None before the first."""
        if self.last_report_time is None:
            return None
        return max(now - self.last_report_time, dt.timedelta(0))

    def order(self) -> tuple[int, int]:
        return self.session_epoch, self.sequence

    def says_the_same_as(self, other: Presence) -> bool:
        """Whether nothing but time, order and the volume's fill has changed."""
        mine, theirs = (
            (p.session_epoch, p.engine_state, p.reason, p.engine_version, p.start_count)
            for p in (self, other)
        )
        return mine == theirs


@dataclass(slots=True)
class _Entry:
    presence: Presence
    persisted: Presence | None  # None: only known to be behind


class PresenceTable:
    """Live presence of the guests that report to this process."""

    def __init__(self, *, persist_interval: dt.timedelta, forget_after: dt.timedelta) -> None:
        self._persist_interval = persist_interval
        self._forget_after = forget_after
        self._entries: dict[str, _Entry] = {}
        metrics.GUESTS_HEARD.set_function(self.__len__)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, instance_id: str, persisted: Presence) -> None:
        """Take over what the database holds, unless we know better."""
        entry = self._entries.get(instance_id)
        if entry is None or entry.presence.order() < persisted.order():
            self._entries[instance_id] = _Entry(persisted, persisted)

    def unknown(self, reports: Iterable[tuple[str, int]]) -> set[str]:
        """Those of (instance, epoch) that the database must be asked about first."""
        return {
            instance_id
            for instance_id, epoch in reports
            if (entry := self._entries.get(instance_id)) is None
            or entry.presence.session_epoch < epoch
        }

    def accept(self, instance_id: str, reported: Presence) -> bool:
        """Take a report; False when it is dropped: no such session, or not newer."""
        entry = self._entries.get(instance_id)
        if entry is None or reported.session_epoch != entry.presence.session_epoch:
            return False
        if reported.sequence <= entry.presence.sequence:
            return False
        entry.presence = reported
        return True

    def due(self, instance_ids: Iterable[str], now: dt.datetime) -> dict[str, Presence]:
        """Of these guests, what must be persisted now."""
        due = {}
        for instance_id in instance_ids:
            entry = self._entries.get(instance_id)
            if entry is None or entry.presence is entry.persisted:
                continue
            last = entry.persisted
            if (
                last is None
                or last.last_report_time is None
                or not entry.presence.says_the_same_as(last)
                or now - last.last_report_time >= self._persist_interval
            ):
                due[instance_id] = entry.presence
        return due

    def persisted(self, written: dict[str, Presence]) -> None:
        """Note what was committed."""
        for instance_id, presence in written.items():
            entry = self._entries.get(instance_id)
            if entry is not None and entry.presence.session_epoch == presence.session_epoch:
                entry.persisted = presence

    def merge(self, instance_id: str, stored: Presence) -> Presence:
        """What is known of a guest, given its row."""
        entry = self._entries.get(instance_id)
        if entry is None or entry.presence.session_epoch < stored.session_epoch:
            return stored
        mine = entry.presence
        if mine.session_epoch > stored.session_epoch:
            # The row was read before the session was opened.
            return mine
        newest = mine if mine.sequence >= stored.sequence else stored
        times = [t for t in (mine.last_report_time, stored.last_report_time) if t is not None]
        return replace(newest, last_report_time=max(times, default=None))

    def forget(self, instance_id: str) -> None:
        self._entries.pop(instance_id, None)

    def forget_silent(self, now: dt.datetime) -> None:
        """Drop guests not heard of for long: they report elsewhere, or are gone."""
        for instance_id, entry in list(self._entries.items()):
            silence = entry.presence.silence(now)
            if silence is not None and silence > self._forget_after:
                self.forget(instance_id)


def clean(text: str, limit: int) -> str:
    """A guest's text for a column: no NUL (PostgreSQL refuses it), not too long."""
    return text.replace("\x00", "")[:limit]


def _state_name(value: int) -> str:
    # Enumerations are open: a newer agent may report a state we have no name for.
    if value not in engine_pb2.EngineState.values():
        value = engine_pb2.ENGINE_STATE_UNSPECIFIED
    return engine_pb2.EngineState.Name(value).removeprefix(_STATE_PREFIX)  # type: ignore[arg-type]


def _state_value(name: str) -> engine_pb2.EngineState.ValueType:
    if _STATE_PREFIX + name not in engine_pb2.EngineState.keys():  # noqa: SIM118  no mapping
        return engine_pb2.ENGINE_STATE_UNSPECIFIED
    return engine_pb2.EngineState.Value(_STATE_PREFIX + name)
