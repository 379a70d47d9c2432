"""What operators ask of rotations. Each function is one transaction's work.

They write what is wanted: a new rotation, a consent, a pause. The rotator does it.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from sqlalchemy.orm import Session

from pki import profiles
from pki.issuer import phases, progress
from pki.issuer.config import Config
from pki.issuer.progress import Left
from pki.models import Authority, Rotation
from pki.store import audit, authorities, news, rotations, subjects
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError

_ROOTS = frozenset(profiles.KIND_NAMES[kind] for kind in profiles.CHILDREN)
# Instances that a row of the audit names; the rotation's own record has all.
_AUDITED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What somebody wants rotated; checked for its shape."""

    kind: str  # LEAF, SERVICE, INTERMEDIATE or ROOT
    authority: str = ""  # of the last two
    instance_ids: tuple[str, ...] = ()  # of LEAF

    def __post_init__(self) -> None:
        needs_authority = self.kind in {rotations.INTERMEDIATE, rotations.ROOT}
        is_root = self.authority in _ROOTS
        if needs_authority != bool(self.authority) or is_root != (self.kind == rotations.ROOT):
            raise InvalidRequestError(
                "authority must be guest, service, operator or database with INTERMEDIATE, root "
                "or database-root with ROOT, and unset otherwise"
            )
        if self.instance_ids and self.kind != rotations.LEAF:
            raise InvalidRequestError("instance_ids go with LEAF alone")

    @property
    def authorities(self) -> tuple[str, ...]:
        """Names of the authorities that get a new generation, parents first."""
        if not self.authority:
            return ()
        if self.kind == rotations.INTERMEDIATE:
            return (self.authority,)
        children = profiles.CHILDREN[profiles.KINDS_BY_NAME[self.authority]]
        return (self.authority, *(profiles.KIND_NAMES[kind] for kind in children))

    @property
    def claims(self) -> frozenset[str]:
        """Authorities that no other rotation may touch meanwhile."""
        return frozenset(self.authorities) or _leaf_claim(self.kind)


def _leaf_claim(kind: str) -> frozenset[str]:
    return frozenset({"guest" if kind == rotations.LEAF else "service"})


def _claims_of(rotation: Rotation) -> frozenset[str]:
    entries = frozenset(entry["kind"] for entry in rotation.authorities)
    return entries or _leaf_claim(rotation.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a rotation would do, and what stands in its way."""

    rotation: Rotation  # not in the database
    steps: Sequence[str]
    offline: Left
    obstacles: Sequence[str]


def plan(session: Session, wanted: Wanted, config: Config, now: dt.datetime) -> Plan:
    rotation = _new(session, wanted, request_id="", actor="", reason="", now=now)
    return Plan(
        rotation=rotation,
        steps=_steps(rotation, config),
        offline=progress.offline(session, rotation, config, now),
        obstacles=_obstacles(session, wanted, config, now),
    )


def start(
    session: Session,
    wanted: Wanted,
    config: Config,
    *,
    request_id: str,
    is_automatic: bool,
    spread: dt.timedelta | None,
    actor: str,
    reason: str,
    now: dt.datetime,
) -> Rotation:
    """Begin a rotation; the same one for the same request id.

    Raises ConflictError (ROTATION_OPEN and others) that names what stands in the way.
    """
    rotations.lock_domain(session)
    known = rotations.by_request(session, request_id)
    if known is not None:
        return known
    if obstacles := _obstacles(session, wanted, config, now):
        is_open = any(wanted.claims & _claims_of(each) for each in rotations.open_ones(session))
        raise ConflictError(
            "cannot start: " + "; ".join(obstacles),
            reason="ROTATION_OPEN" if is_open else "ROTATION_IMPOSSIBLE",
            subject=wanted.authority or wanted.kind.lower(),
        )
    rotation = _new(session, wanted, request_id=request_id, actor=actor, reason=reason, now=now)
    rotation.is_automatic = is_automatic
    rotation.spread_seconds = None if spread is None else int(spread.total_seconds())
    rotations.add(session, rotation)
    _audit(session, rotation, "start-rotation", actor, now, reason=reason)
    return rotation


def advance(
    session: Session,
    rotation_id: str,
    target: str,
    config: Config,
    *,
    strand: Sequence[str],
    actor: str,
    now: dt.datetime,
) -> tuple[Rotation, Left]:
    """Consent to the step behind a gate. Not nobody: refused, and who would be left behind.

    Raises ConflictError when the rotation is not at that gate.
    """
    rotation = rotations.lock(session, rotation_id)
    if _has_reached(rotation, target):
        return rotation, progress.NOBODY
    rotations.require_open(rotation)
    if rotation.is_paused:
        raise ConflictError(
            f"{rotation_id} is paused ({rotation.pause_reason}); resume it first",
            reason="ROTATION_PAUSED",
            subject=rotation_id,
        )
    if target == rotations.SWITCHED:
        _require_phase(rotation, (rotations.READY,), target)
    else:
        _require_phase(rotation, (rotations.REISSUING, rotations.DRAINED), target)
        left = progress.stranded(session, rotation, config, now, without=strand)
        if left.total:
            named = _first(each.instance_id for each in left.named)
            _audit(
                session,
                rotation,
                "refuse-retirement",
                actor,
                now,
                reason=f"would strand {left.total}: {named}",
            )
            return rotation, left
        if names := progress.remaining_names(session, rotation, now):
            raise ConflictError(
                f"{len(names)} services or operators hold certificates of the old generation: "
                f"{', '.join(names[:5])}; they renew by themselves, or deny them",
                reason="HOLDERS_LEFT",
                subject=rotation_id,
            )
        rotation.stranded_ids = sorted(progress.stranded_ids(session, rotation, now))
    rotation.consented_phase = target
    session.flush()
    count = len(rotation.stranded_ids)
    named = f"; strands {count}: {_first(rotation.stranded_ids)}" if count else ""
    _audit(session, rotation, "advance-rotation", actor, now, reason=f"to {target}{named}")
    return rotation, progress.NOBODY


def _first(instance_ids: Iterable[str]) -> str:
    """As many as an audit row takes."""
    return ", ".join(itertools.islice(instance_ids, _AUDITED))


def set_paused(
    session: Session,
    rotation_id: str,
    *,
    is_paused: bool,
    reason: str,
    actor: str,
    now: dt.datetime,
) -> Rotation:
    rotation = rotations.lock(session, rotation_id)
    rotations.require_open(rotation)
    if rotation.is_paused == is_paused:
        return rotation
    if is_paused:
        phases.pause(session, rotation, reason, now, actor=actor)
        return rotation
    news.mark(session)
    rotation.is_paused, rotation.pause_reason = False, ""
    # What made it stop was looked at: the budget begins anew.
    rotation.renewals = rotation.errors = 0
    if rotation.phase == rotations.SWITCHED:
        rotation.switch_time = now
    session.flush()
    _audit(session, rotation, "resume-rotation", actor, now, reason=reason)
    return rotation


def roll_back(
    session: Session,
    rotation_id: str,
    config: Config,
    *,
    reason: str,
    actor: str,
    now: dt.datetime,
) -> Rotation:
    """Before the switch the new generation is dropped, after it the old one signs again."""
    rotation = rotations.lock(session, rotation_id)
    if rotation.phase in {rotations.ABORTED, rotations.ROLLED_BACK}:
        return rotation
    # Whoever is moving it right now has lost it.
    rotation.lease_fence += 1
    rotation.lease_owner, rotation.lease_until = "", None
    rotation.is_paused, rotation.pause_reason = False, ""
    if rotation.phase in rotations.BEFORE_SWITCH:
        phases.abort(session, rotation, now, actor=actor)
    elif rotation.phase in {rotations.SWITCHED, rotations.REISSUING}:
        phases.roll_back(session, rotation, config, now, actor=actor)
    else:
        raise ConflictError(
            f"{rotation_id} is {rotation.phase}: nobody has a certificate of the old generation "
            "any more; start a new rotation instead",
            reason="TOO_LATE_TO_ROLL_BACK",
            subject=rotation_id,
        )
    _audit(session, rotation, "roll-back-rotation", actor, now, reason=reason)
    return rotation


def _new(
    session: Session, wanted: Wanted, *, request_id: str, actor: str, reason: str, now: dt.datetime
) -> Rotation:
    entries = []
    for name in wanted.authorities:
        old = _present(session, name)
        entries.append({"kind": name, "old": old.generation, "new": 0})
    return Rotation(
        request_id=request_id,
        kind=wanted.kind,
        authority=wanted.authority,
        authorities=entries,
        instance_ids=list(wanted.instance_ids),
        phase=rotations.PLANNED,
        phase_time=now,
        is_automatic=False,
        actor=actor,
        reason=reason,
        create_time=now,
    )


def _present(session: Session, name: str) -> Authority:
    """The generation to replace: the one that signs, or the newest where that was tainted."""
    active = authorities.active(session, name)
    if active is not None:
        return active
    rows = authorities.of_kind(session, name)
    if not rows:
        raise NotFoundError(f"there is no {name} authority yet; run `trove-pki init`")
    return rows[-1]


def _obstacles(session: Session, wanted: Wanted, config: Config, now: dt.datetime) -> list[str]:
    found = [
        f"{rotations.name(each)} is open for {', '.join(sorted(wanted.claims & claimed))}"
        for each in rotations.open_ones(session)
        if wanted.claims & (claimed := _claims_of(each))
    ]
    for instance_id in wanted.instance_ids:
        subject = subjects.find(session, instance_id)
        if subject is None or subject.state != subjects.ACTIVE:
            found.append(f"instance {instance_id} is not known here, or its identity is retired")
    if wanted.kind == rotations.INTERMEDIATE:
        parent = profiles.KIND_NAMES[profiles.PARENTS[profiles.KINDS_BY_NAME[wanted.authority]]]
        root = authorities.active(session, parent)
        if root is None:
            found.append(f"no {parent} signs; rotate the {parent} instead")
        else:
            ends = x509.load_pem_x509_certificate(root.certificate_pem).not_valid_after_utc
            longest = max(config.engine_lifetime, config.service_lifetime, config.guest_lifetime)
            if ends - 2 * config.authority_margin - longest < now:
                found.append(f"the {parent} ends at {ends:%FT%TZ}; rotate the {parent} instead")
    return found


def _steps(rotation: Rotation, config: Config) -> list[str]:
    if not rotation.authorities:
        who = "agents" if rotation.kind == rotations.LEAF else "services"
        return [
            f"tell {who} to renew, over at least {config.rotation_spread}",
            "wait until nobody holds an older certificate; it then ends by itself",
        ]
    names = ", ".join(f"{entry['kind']} g{entry['old']}" for entry in rotation.authorities)
    return [
        f"make a new key for each of {names}, in custody",
        "certify the keys"
        + ("; the old root certifies the new one too" if rotation.kind == rotations.ROOT else ""),
        "put them into the trust bundle, and wait until services and agents hold it",
        f"wait {config.rotation_soak}, then for your consent unless it is automatic",
        "switch: the new generation signs",
        f"let holders renew, over at least {config.rotation_spread}",
        "wait until no live certificate of the old generation is left",
        "take the old generation out of the bundle, with your consent unless it is automatic",
        f"destroy the old key after {config.key_hold}",
    ]


def _has_reached(rotation: Rotation, target: str) -> bool:
    if target == rotations.SWITCHED:
        return rotation.phase in (*rotations.AFTER_SWITCH, rotations.RETIRED)
    return rotation.phase == rotations.RETIRED


def _require_phase(rotation: Rotation, wanted: Sequence[str], target: str) -> None:
    if rotation.phase not in wanted:
        raise ConflictError(
            f"{rotations.name(rotation)} is {rotation.phase}; it can go to {target} from "
            f"{' or '.join(wanted)}: wait, or see `trove-pki rotate status`",
            reason="NOT_AT_THE_GATE",
            subject=rotations.name(rotation),
        )


def _audit(
    session: Session, rotation: Rotation, action: str, actor: str, now: dt.datetime, *, reason: str
) -> None:
    audit.append(
        session,
        now=now,
        actor=actor,
        action=action,
        subject=rotations.name(rotation),
        detail={
            "reason": reason,
            "kind": rotation.kind,
            "authority": rotation.authority,
            "phase": rotation.phase,
        },
    )
