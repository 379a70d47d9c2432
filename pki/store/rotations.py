"""Rotations and their leases."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import Domain, Rotation
from pki.store import authorities
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError, StaleError

LEAF, SERVICE, INTERMEDIATE, ROOT = "LEAF", "SERVICE", "INTERMEDIATE", "ROOT"

PLANNED = "PLANNED"
KEY_CREATED = "KEY_CREATED"
CERTIFICATE_SIGNED = "CERTIFICATE_SIGNED"
DISTRIBUTING = "DISTRIBUTING"
READY = "READY"
SWITCHED = "SWITCHED"
REISSUING = "REISSUING"
DRAINED = "DRAINED"
RETIRED = "RETIRED"
ABORTED = "ABORTED"
ROLLED_BACK = "ROLLED_BACK"

BEFORE_SWITCH = (PLANNED, KEY_CREATED, CERTIFICATE_SIGNED, DISTRIBUTING, READY)
AFTER_SWITCH = (SWITCHED, REISSUING, DRAINED)
OPEN = (*BEFORE_SWITCH, *AFTER_SWITCH)
ENDED = (RETIRED, ABORTED, ROLLED_BACK)

_NAME = re.compile(r"\Arot-(\d{4,12})\Z")


def name(rotation: Rotation) -> str:
    return f"rot-{rotation.number:04d}"


def number(rotation_id: str) -> int:
    """The number in "rot-0019"; raises InvalidRequestError."""
    match = _NAME.match(rotation_id)
    if match is None:
        raise InvalidRequestError(
            f"rotation_id {rotation_id[:64]!r} is not like rot-0019; see `trove-pki rotate status`"
        )
    return int(match[1])


def lock_domain(session: Session) -> Domain:
    """The domain's row, locked: two rotations do not begin at one moment."""
    return session.scalars(sa.select(Domain).with_for_update()).one()


def add(session: Session, rotation: Rotation) -> Rotation:
    session.add(rotation)
    session.flush()
    return rotation


def find(session: Session, rotation_id: str) -> Rotation:
    """Raises NotFoundError (UNKNOWN_ROTATION)."""
    rotation = session.get(Rotation, number(rotation_id))
    if rotation is None:
        raise _unknown(rotation_id)
    return rotation


def lock(session: Session, rotation_id: str) -> Rotation:
    """The row, locked until the transaction ends. Raises NotFoundError."""
    rotation = session.scalars(
        sa.select(Rotation).where(Rotation.number == number(rotation_id)).with_for_update()
    ).one_or_none()
    if rotation is None:
        raise _unknown(rotation_id)
    return rotation


def by_request(session: Session, request_id: str) -> Rotation | None:
    return session.scalars(
        sa.select(Rotation).where(Rotation.request_id == request_id)
    ).one_or_none()


def page(
    session: Session, *, open_only: bool, before: int | None, size: int
) -> Sequence[Rotation]:
    """Newest first."""
    query = sa.select(Rotation).order_by(Rotation.number.desc()).limit(size)
    if open_only:
        query = query.where(Rotation.phase.in_(OPEN))
    if before is not None:
        query = query.where(Rotation.number < before)
    return session.scalars(query).all()


def in_phases(session: Session, phases: Sequence[str]) -> Sequence[Rotation]:
    """Oldest first."""
    return session.scalars(
        sa.select(Rotation).where(Rotation.phase.in_(phases)).order_by(Rotation.number)
    ).all()


def open_ones(session: Session) -> Sequence[Rotation]:
    return in_phases(session, OPEN)


def ready_for(session: Session, kind: str) -> Rotation | None:
    """The rotation, locked, whose new generation of `kind` could sign now."""
    for rotation in in_phases(session, (READY,)):
        if any(entry["kind"] == kind for entry in rotation.authorities):
            held = lock(session, name(rotation))
            return held if held.phase == READY else None
    return None


def is_any_open(session: Session) -> bool:
    return session.scalar(sa.select(sa.exists().where(Rotation.phase.in_(OPEN)))) or False


def reissuing(session: Session) -> Sequence[Rotation]:
    """Those whose holders renew now; of those that went back, the ones with holders left."""
    return in_phases(session, (SWITCHED, REISSUING, ROLLED_BACK))


def take_lease(
    session: Session, number_: int, owner: str, now: dt.datetime, duration: dt.timedelta
) -> int | None:
    """The fence under which `owner` may move the rotation; None while somebody else may."""
    rotation = session.scalars(
        sa.select(Rotation).where(Rotation.number == number_).with_for_update()
    ).one()
    if rotation.lease_owner != owner:
        if rotation.lease_until is not None and rotation.lease_until > now:
            return None
        rotation.lease_owner = owner
        rotation.lease_fence += 1
    rotation.lease_until = now + duration
    session.flush()
    return rotation.lease_fence


def hold(session: Session, number_: int, fence: int, phase: str) -> Rotation:
    """The row, locked, if it is still ours to move out of `phase`; StaleError otherwise."""
    rotation = session.scalars(
        sa.select(Rotation).where(Rotation.number == number_).with_for_update()
    ).one()
    if rotation.lease_fence != fence or rotation.phase != phase or rotation.is_paused:
        raise StaleError(
            f"{name(rotation)} was moved, paused or taken over meanwhile", subject=name(rotation)
        )
    return rotation


def require_open(rotation: Rotation) -> None:
    if rotation.phase not in OPEN:
        raise ConflictError(
            f"{name(rotation)} has ended: {rotation.phase}",
            reason="ROTATION_ENDED",
            subject=name(rotation),
        )


def latest_generation(session: Session, kind: str) -> int:
    """The highest number any rotation gave to a generation of this kind, certified or not."""
    return max(
        (
            entry["new"]
            for entries in session.scalars(sa.select(Rotation.authorities))
            for entry in entries
            if entry["kind"] == kind
        ),
        default=0,
    )


def count(session: Session, number_: int, renewals: int, errors: int) -> None:
    """Add what one issuer counted; several may do so at once."""
    session.execute(
        sa.update(Rotation)
        .where(Rotation.number == number_)
        .values(renewals=Rotation.renewals + renewals, errors=Rotation.errors + errors)
    )


def spent_generations(session: Session, retired_before: dt.datetime) -> list[tuple[str, int]]:
    """(authority, generation) of keys to destroy.

    Of those retired long ago, and of those that never signed: their rotation was given up.
    """
    found = {
        (row.kind, row.generation)
        for row in authorities.in_states(session, (authorities.RETIRED,))
        if row.state_time is not None and row.state_time <= retired_before
    }
    for rotation in in_phases(session, (ABORTED,)):
        found |= {
            (entry["kind"], entry["new"])
            for entry in rotation.authorities
            if entry["new"] and not entry.get("is_destroyed")
        }
    return sorted(found)


def mark_destroyed(session: Session, kind: str, generation: int) -> None:
    """Remember that the key of a generation whose rotation was given up is gone."""
    for rotation in in_phases(session, (ABORTED,)):
        if any(_is(entry, kind, generation) for entry in rotation.authorities):
            rotation.authorities = [
                {**entry, "is_destroyed": True} if _is(entry, kind, generation) else entry
                for entry in rotation.authorities
            ]
    session.flush()


def _is(entry: dict[str, Any], kind: str, generation: int) -> bool:
    return bool(entry["kind"] == kind and entry["new"] == generation)


def _unknown(rotation_id: str) -> NotFoundError:
    return NotFoundError(
        f"there is no rotation {rotation_id}; see `trove-pki rotate status`",
        reason="UNKNOWN_ROTATION",
        subject=rotation_id,
    )
