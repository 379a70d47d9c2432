"""What each phase of a rotation changes in the database. Each function is one transaction's work.

Nothing here asks custody: keys and certificates are made before (pki.issuer.rotator), and what was
made is recorded here together with the new phase, under the fence of the rotation's lease.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy.orm import Session

from pki.issuer import progress
from pki.issuer.config import Config
from pki.models import Authority, Rotation
from pki.store import audit, authorities, news, rotations
from trove_grpc.errors import ConflictError

ISSUER = "issuer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A new generation's certificate, before it is recorded."""

    kind: str
    generation: int
    key_name: str
    certificate_pem: bytes
    signed_by_generation: int
    cross_certificate_pem: bytes | None = None


def enter(
    session: Session, rotation: Rotation, phase: str, now: dt.datetime, *, actor: str = ISSUER
) -> None:
    """Write the phase and the audit's row of it; who is told to renew may change with it."""
    news.mark(session)
    before, rotation.phase, rotation.phase_time = rotation.phase, phase, now
    session.flush()
    audit.append(
        session,
        now=now,
        actor=actor,
        action="rotate",
        subject=rotations.name(rotation),
        detail={"from": before, "to": phase, "authority": rotation.authority or rotation.kind},
    )


def number_generations(session: Session, rotation: Rotation) -> None:
    """The intent to make keys: which generations they are for. Numbers are never used twice."""
    numbered = []
    for entry in rotation.authorities:
        new = entry["new"]
        if not new:
            new = 1 + max(
                authorities.latest_generation(session, entry["kind"]),
                rotations.latest_generation(session, entry["kind"]),
            )
        numbered.append({**entry, "new": new})
    rotation.authorities = numbered
    session.flush()


def record_certificates(
    session: Session, rotation: Rotation, made: list[Made], now: dt.datetime
) -> None:
    for each in made:
        authorities.add(
            session,
            Authority(
                kind=each.kind,
                generation=each.generation,
                state=authorities.PREPARED,
                key_name=each.key_name,
                certificate_pem=each.certificate_pem,
                create_time=now,
                signed_by_generation=each.signed_by_generation,
                cross_certificate_pem=each.cross_certificate_pem,
                state_time=now,
            ),
        )
    enter(session, rotation, rotations.CERTIFICATE_SIGNED, now)


def distribute(session: Session, rotation: Rotation, now: dt.datetime) -> None:
    for row in untainted_generations(session, rotation):
        authorities.set_state(session, row, authorities.TRUSTED, now)
    rotation.bundle_version = authorities.new_bundle(session, now)
    enter(session, rotation, rotations.DISTRIBUTING, now)


def switch(session: Session, rotation: Rotation, config: Config, now: dt.datetime) -> None:
    """The new generations sign from the next signature on.

    Raises ConflictError when one of them was tainted, or another generation signs.
    """
    new = untainted_generations(session, rotation)
    for entry in rotation.authorities:
        signs = authorities.active(session, entry["kind"])
        if signs is not None and signs.generation != entry["old"]:
            raise ConflictError(
                f"{entry['kind']} g{signs.generation} signs, not g{entry['old']} as when "
                f"{rotations.name(rotation)} began; roll it back",
                reason="OTHER_ACTIVE",
                subject=rotations.name(rotation),
            )
        if signs is not None:
            authorities.set_state(session, signs, authorities.DRAINING, now)
    for row in new:
        authorities.set_state(session, row, authorities.ACTIVE, now)
    authorities.new_bundle(session, now)
    rotation.switch_time = now
    rotation.instance_ids = list(progress.canaries(session, rotation, config))
    rotation.window_start, rotation.window_end = now, now + config.rotation_canary_wait / 2
    if "service" in progress.leaf_kinds(rotation):
        rotations.lock_domain(session).services_renew_before = now
    enter(session, rotation, rotations.SWITCHED, now)


def reissue(session: Session, rotation: Rotation, config: Config, now: dt.datetime) -> None:
    """Let holders renew, over so long that the issuer has an easy time of it."""
    if rotation.kind == rotations.SERVICE:
        rotations.lock_domain(session).services_renew_before = now
    if rotation.switch_time is None:
        rotation.switch_time = now
    if rotation.kind != rotations.LEAF:
        rotation.instance_ids = []
    open_window(session, rotation, config, now)
    enter(session, rotation, rotations.REISSUING, now)


def open_window(session: Session, rotation: Rotation, config: Config, now: dt.datetime) -> None:
    if rotation.spread_seconds is not None:
        spread = dt.timedelta(seconds=rotation.spread_seconds)
    else:
        holders = progress.old_leaves(session, rotation, now)
        spread = max(config.rotation_spread, dt.timedelta(seconds=holders / config.rotation_rate))
    rotation.window_start, rotation.window_end = now, now + spread


def retire(session: Session, rotation: Rotation, now: dt.datetime) -> None:
    """Take the old generations out of the bundle; a tainted one stays known as such."""
    for entry in rotation.authorities:
        old = authorities.find(session, entry["kind"], entry["old"])
        if old is not None and old.state == authorities.DRAINING:
            authorities.set_state(session, old, authorities.RETIRED, now)
    if rotation.authorities:
        authorities.new_bundle(session, now)
    enter(session, rotation, rotations.RETIRED, now)


def abort(session: Session, rotation: Rotation, now: dt.datetime, *, actor: str) -> None:
    """Drop the new generations: nobody has a leaf of theirs. A tainted one stays known as such."""
    for row in new_generations(session, rotation):
        if row.state == authorities.TAINTED:
            continue
        authorities.set_state(session, row, authorities.RETIRED, now)
    if rotation.bundle_version is not None:
        authorities.new_bundle(session, now)
    enter(session, rotation, rotations.ABORTED, now, actor=actor)


def roll_back(
    session: Session, rotation: Rotation, config: Config, now: dt.datetime, *, actor: str
) -> None:
    """The old generations sign again; who has a leaf of a new one renews."""
    if not rotation.authorities:
        enter(session, rotation, rotations.ABORTED, now, actor=actor)
        return
    for entry in rotation.authorities:
        old = authorities.find(session, entry["kind"], entry["old"])
        if old is None or old.state != authorities.DRAINING:
            raise ConflictError(
                f"{entry['kind']} g{entry['old']} is not there to go back to: it is "
                f"{'gone' if old is None else old.state}",
                reason="NOTHING_TO_GO_BACK_TO",
                subject=rotations.name(rotation),
            )
    for row in new_generations(session, rotation):
        if row.state != authorities.TAINTED:  # which stays known as such
            authorities.set_state(session, row, authorities.DRAINING, now)
    for entry in rotation.authorities:
        old = authorities.find(session, entry["kind"], entry["old"])
        assert old is not None  # noqa: S101  looked at above
        authorities.set_state(session, old, authorities.ACTIVE, now)
    authorities.new_bundle(session, now)
    if "service" in progress.leaf_kinds(rotation):
        rotations.lock_domain(session).services_renew_before = now
    rotation.instance_ids = []
    enter(session, rotation, rotations.ROLLED_BACK, now, actor=actor)
    open_window(session, rotation, config, now)
    session.flush()


def finish_roll_back(session: Session, rotation: Rotation, now: dt.datetime) -> None:
    """The generation that was taken back has no holders left: out of the bundle with it."""
    for row in new_generations(session, rotation):
        if row.state == authorities.DRAINING:
            authorities.set_state(session, row, authorities.RETIRED, now)
            audit.append(
                session,
                now=now,
                actor=ISSUER,
                action="retire-authority",
                subject=row.key_name,
                detail={"rotation": rotations.name(rotation)},
            )
    authorities.new_bundle(session, now)


def pause(
    session: Session, rotation: Rotation, reason: str, now: dt.datetime, *, actor: str
) -> None:
    news.mark(session)
    rotation.is_paused, rotation.pause_reason = True, reason
    session.flush()
    audit.append(
        session,
        now=now,
        actor=actor,
        action="pause-rotation",
        subject=rotations.name(rotation),
        detail={"reason": reason},
    )


def new_generations(session: Session, rotation: Rotation) -> list[Authority]:
    """Their rows, parents first; none before they are certified."""
    rows = [
        authorities.find(session, entry["kind"], entry["new"]) for entry in rotation.authorities
    ]
    return [row for row in rows if row is not None]


def untainted_generations(session: Session, rotation: Rotation) -> list[Authority]:
    """The same, locked against a taint; raises ConflictError (SUCCESSOR_TAINTED)."""
    rows = new_generations(session, rotation)
    for row in rows:
        session.refresh(row, with_for_update=True)
        if row.state == authorities.TAINTED:
            raise ConflictError(
                f"{row.kind} g{row.generation} was tainted and must never sign; roll "
                f"{rotations.name(rotation)} back and begin another",
                reason="SUCCESSOR_TAINTED",
                subject=rotations.name(rotation),
            )
    return rows
