"""How far a rotation has come, and whom its next step would leave behind."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.issuer.config import Config
from pki.models import Certificate, Rotation, Subject
from pki.store import authorities, certificates, enrolled, leaves, rotations, services, subjects
from pki.store.leaves import ENGINE, GUEST, OPERATOR, SERVICE, Condition

_ROOT = "root"
# About 300 bytes and two queries each.
NAMED = 200
# One alone may be switched off at the wrong moment.
_FEWEST_CANARIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Counts, as trove.issuer.v1.RotationProgress has them."""

    guests: int
    guests_online: int
    guests_acknowledged: int
    guests_reissued: int
    services: int
    services_acknowledged: int
    services_reissued: int
    engines: int
    engines_reissued: int
    old_leaves: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranded:
    """An instance that a step would leave behind, or that has not followed yet."""

    instance_id: str
    why: str
    last_seen_time: dt.datetime | None
    is_recoverable: bool

    @property
    def command(self) -> str:
        if self.is_recoverable:
            return f"trove-pki agents show {self.instance_id}"
        return f"trove-pki token create --instance {self.instance_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Who is left behind: how many, and the first of them by id.

    A fleet does not fit into one answer of gRPC, and nobody reads it at once.
    """

    total: int
    named: Sequence[Stranded]


NOBODY = Left(total=0, named=())


def leaf_kinds(rotation: Rotation) -> list[str]:
    """Kinds of the leaves that it replaces."""
    if rotation.kind == rotations.LEAF:
        return [GUEST]
    if rotation.kind == rotations.SERVICE:
        return [SERVICE]
    return [each["kind"] for each in rotation.authorities if each["kind"] in leaves.KINDS]


def which_old(rotation: Rotation, kind: str) -> Condition:
    """The leaves of `kind` that it replaces; after a roll-back those of the new generation."""
    if rotation.kind in {rotations.LEAF, rotations.SERVICE}:
        old = leaves.issued_before(rotation.switch_time or rotation.create_time)
        if only := _only(rotation):
            old = sa.and_(old, Certificate.instance_id.in_(only))
        return old
    entry = _entry(rotation, kind)
    is_back = rotation.phase == rotations.ROLLED_BACK
    return leaves.of_generation(entry["new"] if is_back else entry["old"])


def _which_new(rotation: Rotation, kind: str) -> Condition:
    if rotation.kind in {rotations.LEAF, rotations.SERVICE}:
        return leaves.issued_since(rotation.switch_time or rotation.create_time)
    entry = _entry(rotation, kind)
    if rotation.phase == rotations.ROLLED_BACK:
        return Certificate.generation != entry["new"]
    # 0: there is no new generation yet, and nobody has a leaf of it.
    return leaves.since_generation(entry["new"]) if entry["new"] else sa.false()


def _only(rotation: Rotation) -> Sequence[str]:
    """The instances it is about; empty means all. Of other kinds the field names canaries."""
    return rotation.instance_ids if rotation.kind == rotations.LEAF else ()


def _entry(rotation: Rotation, kind: str) -> dict[str, int]:
    return next(each for each in rotation.authorities if each["kind"] == kind)


def old_leaves(
    session: Session, rotation: Rotation, now: dt.datetime, *, without: Collection[str] = ()
) -> int:
    """Leaves in use that it replaces, less those of the instances in `without`."""
    total = 0
    for kind in leaf_kinds(rotation):
        which = which_old(rotation, kind)
        if without and kind in {GUEST, ENGINE}:
            which = sa.and_(which, Certificate.instance_id.not_in(without))
        total += leaves.count(session, kind, which, now)
    return total


def remaining_names(session: Session, rotation: Rotation, now: dt.datetime) -> list[str]:
    """Services and operators that hold a leaf which it replaces."""
    return [
        name
        for kind in leaf_kinds(rotation)
        if kind in {SERVICE, OPERATOR}
        for name in leaves.names(session, kind, which_old(rotation, kind), now)
    ]


def measure(session: Session, rotation: Rotation, config: Config, now: dt.datetime) -> Progress:
    kinds = leaf_kinds(rotation)
    version = rotation.bundle_version
    only = _only(rotation)
    seen = services.seen_since(session, now - config.service_liveness)
    return Progress(
        guests=enrolled.count(session, only),
        guests_online=enrolled.count(session, only, enrolled.is_online()),
        guests_acknowledged=0
        if version is None
        else enrolled.count(session, only, enrolled.is_online(), enrolled.holds_bundle(version)),
        guests_reissued=leaves.reissued(session, GUEST, _which_new(rotation, GUEST), only)
        if GUEST in kinds
        else 0,
        services=len(seen),
        services_acknowledged=0
        if version is None
        else sum(each.held_bundle_version >= version for each in seen),
        services_reissued=leaves.count_serials(
            session, [each.serial for each in seen], _which_new(rotation, SERVICE)
        )
        if SERVICE in kinds
        else 0,
        engines=leaves.count(session, ENGINE, sa.true(), now) if ENGINE in kinds else 0,
        engines_reissued=leaves.reissued(session, ENGINE, _which_new(rotation, ENGINE))
        if ENGINE in kinds
        else 0,
        old_leaves=old_leaves(session, rotation, now),
    )


def are_bundles_held(progress: Progress, config: Config) -> bool:
    """The gate before READY: all services that are there, nearly all guests that are there."""
    return (
        progress.services_acknowledged >= progress.services
        and progress.guests_acknowledged >= progress.guests_online * config.rotation_ack_share
    )


def canaries(session: Session, rotation: Rotation, config: Config) -> Sequence[str]:
    """Who renews first: a share of the guests online; their ids are random, so is the choice."""
    if GUEST not in leaf_kinds(rotation):
        return []
    only = _only(rotation)
    online = enrolled.count(session, only, enrolled.is_online())
    most = max(_FEWEST_CANARIES, int(online * config.rotation_canary_share))
    return enrolled.ids(session, only, enrolled.is_online(), limit=most)


def has_canary_renewed(session: Session, rotation: Rotation) -> bool:
    """Whether one of those that renew first has done so: then the new generation works."""
    return bool(
        leaves.reissued(session, GUEST, _which_new(rotation, GUEST), rotation.instance_ids)
    )


def offline(session: Session, rotation: Rotation, config: Config, now: dt.datetime) -> Left:
    """Guests that are not connected."""
    return _guests(
        session, rotation, config, now, which=enrolled.is_offline(), why="it is offline"
    )


def behind(session: Session, rotation: Rotation, config: Config, now: dt.datetime) -> Left:
    """Who has not followed yet.

    Before the switch those without the bundle, after it those whose certificate is to be replaced.
    """
    if rotation.phase not in rotations.BEFORE_SWITCH:
        return stranded(session, rotation, config, now)
    if rotation.bundle_version is None:
        return NOBODY
    lacking = enrolled.lacks_bundle(rotation.bundle_version)
    why = "it does not hold the new bundle"
    return _guests(session, rotation, config, now, which=lacking, why=why)


def stranded(
    session: Session,
    rotation: Rotation,
    config: Config,
    now: dt.datetime,
    *,
    without: Collection[str] = (),
) -> Left:
    """Whom the end of the old generation would leave behind, but for those in `without`."""
    reasons = _reasons(session, rotation, now)
    left = sorted(reasons.keys() - set(without))
    return Left(
        total=len(left),
        named=[
            describe(session, row, config, " and ".join(reasons[row.instance_id]), now)
            for row in subjects.of_ids(session, left[:NAMED])
        ],
    )


def stranded_ids(session: Session, rotation: Rotation, now: dt.datetime) -> Collection[str]:
    """Their ids, all of them."""
    return _reasons(session, rotation, now).keys()


def _reasons(session: Session, rotation: Rotation, now: dt.datetime) -> dict[str, list[str]]:
    """Why each instance would be left behind."""
    reasons: dict[str, list[str]] = {}
    for kind in leaf_kinds(rotation):
        if kind in {GUEST, ENGINE}:
            what = "its certificate" if kind == GUEST else "its engine's certificate"
            for instance_id in leaves.instances(session, kind, which_old(rotation, kind), now):
                reasons.setdefault(instance_id, []).append(f"{what} is of the old generation")
    if any(each["kind"] == _ROOT for each in rotation.authorities):
        lacking = enrolled.lacks_bundle(rotation.bundle_version or 0)
        for instance_id in enrolled.ids(session, _only(rotation), lacking):
            reasons.setdefault(instance_id, []).append("it never took the new root's bundle")
    return reasons


def _guests(
    session: Session,
    rotation: Rotation,
    config: Config,
    now: dt.datetime,
    *,
    which: Condition,
    why: str,
) -> Left:
    only = _only(rotation)
    return Left(
        total=enrolled.count(session, only, which),
        named=[
            describe(session, row, config, why, now)
            for row in enrolled.first(session, only, which, limit=NAMED)
        ],
    )


def describe(
    session: Session, subject: Subject, config: Config, why: str, now: dt.datetime
) -> Stranded:
    return Stranded(
        instance_id=subject.instance_id,
        why=why if subject.is_online or "offline" in why else f"{why}, and it is offline",
        last_seen_time=subject.last_seen_time,
        is_recoverable=_is_recoverable(session, subject, config, now),
    )


def _is_recoverable(session: Session, subject: Subject, config: Config, now: dt.datetime) -> bool:
    """Whether its newest certificate proves who it is, now or by Recover."""
    newest = session.scalars(
        sa.select(Certificate)
        .where(
            Certificate.instance_id == subject.instance_id,
            Certificate.kind == GUEST,
            Certificate.state.in_(certificates.LIVE),
        )
        .order_by(Certificate.number.desc())
        .limit(1)
    ).first()
    if newest is None or subject.quarantine_time is not None:
        return False
    until = newest.expire_time + config.recovery_grace
    if subject.recovery_until_time is not None:
        until = max(until, subject.recovery_until_time)
    authority = authorities.find(session, GUEST, newest.generation)
    return now < until and authority is not None and authority.state != authorities.TAINTED
