"""What gateways saw of guests: notes beside a subject, never a reason to believe an identity."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import Subject

_TABLE = cast("sa.Table", Subject.__table__)
_TIME = _TABLE.c.last_seen_time.type


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One guest as one gateway saw it."""

    instance_id: str
    serial: str
    engine_serial: str
    bundle_version: int
    is_gone: bool
    clock_skew_ms: int | None
    seen_time: dt.datetime


def record(session: Session, gateway_id: str, sightings: Sequence[Sighting]) -> int:
    """Write them beside their subjects; how many were of instances nobody registered.

    A guest moves between gateways whose reports may cross. Of two gateways that hold it, the
    later sighting counts; that it is gone counts from the gateway alone that was said to hold it.
    """
    known = set(
        session.scalars(
            sa.select(Subject.instance_id).where(
                Subject.instance_id.in_([each.instance_id for each in sightings])
            )
        )
    )
    # In one order, so that two reports never wait for each other's rows.
    ours = sorted(
        (each for each in sightings if each.instance_id in known),
        key=lambda sighting: sighting.instance_id,
    )
    for statement, is_gone in ((_SEEN, False), (_GONE, True)):
        rows = [_values(gateway_id, each) for each in ours if each.is_gone is is_gone]
        if rows:
            session.connection().execute(statement, rows)
    return len(sightings) - len(ours)


def expire(session: Session, before: dt.datetime) -> int:
    """Take for gone whom nobody has seen since: its gateway died; how many there were."""
    changed = session.execute(
        sa.update(Subject)
        .where(Subject.is_online.is_(True), Subject.last_seen_time < before)
        .values(is_online=False)
    )
    return int(changed.rowcount)  # type: ignore[attr-defined]


def _values(gateway_id: str, sighting: Sighting) -> dict[str, object]:
    return {
        "of_instance": sighting.instance_id,
        "by_gateway": gateway_id,
        "at": sighting.seen_time,
        "its_serial": sighting.serial,
        "its_engine_serial": sighting.engine_serial,
        "its_bundle": sighting.bundle_version,
        "its_skew": sighting.clock_skew_ms,
    }


_IS_NEWER = (_TABLE.c.instance_id == sa.bindparam("of_instance")) & sa.or_(
    _TABLE.c.last_seen_time.is_(None), _TABLE.c.last_seen_time <= sa.bindparam("at", type_=_TIME)
)
_SEEN = (
    sa.update(_TABLE)
    .where(_IS_NEWER)
    .values(
        is_online=True,
        gateway_id=sa.bindparam("by_gateway"),
        last_seen_time=sa.bindparam("at", type_=_TIME),
        seen_serial=sa.bindparam("its_serial"),
        engine_serial=sa.bindparam("its_engine_serial"),
        held_bundle_version=sa.bindparam("its_bundle"),
        clock_skew_ms=sa.func.coalesce(
            sa.bindparam("its_skew", type_=_TABLE.c.clock_skew_ms.type), _TABLE.c.clock_skew_ms
        ),
    )
)
_GONE = (
    sa.update(_TABLE)
    .where(_IS_NEWER, _TABLE.c.gateway_id == sa.bindparam("by_gateway"))
    .values(is_online=False, last_seen_time=sa.bindparam("at", type_=_TIME))
)
