"""Whom gateways tell to renew: read from the rotations, so that nothing has to be kept in step.

A directive describes certificates, not their holders: who has renewed no longer fits it. It is in
force from the switch until its rotation ends, and not while that is paused.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from sqlalchemy.orm import Session

from pki.issuer import answers
from pki.models import Rotation
from pki.store import leaves, rotations
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as pb

# Rotated authority -> whose certificates it signs.
_TARGETS: dict[str, pb.RenewalTarget.ValueType] = {
    "guest": pb.RENEWAL_TARGET_AGENT,
    "database": pb.RENEWAL_TARGET_ENGINE,
}
# Beyond so many names a directive means everybody: to renew once too often does no harm.
_MAX_NAMES = 1000


def directives(session: Session, now: dt.datetime) -> list[pb.RenewalDirective]:
    """All directives in force at `now`, oldest rotation first."""
    found: list[pb.RenewalDirective] = []
    for rotation in rotations.reissuing(session):
        if rotation.is_paused or rotation.window_start is None or rotation.window_start > now:
            continue
        if rotation.phase == rotations.ROLLED_BACK:
            found += _back(session, rotation, now)
        else:
            found += _forward(rotation)
    return found


def _forward(rotation: Rotation) -> list[pb.RenewalDirective]:
    if rotation.kind == rotations.LEAF:
        return [
            _directive(
                rotation,
                pb.RENEWAL_TARGET_AGENT,
                issued_before=rotation.switch_time,
                instance_ids=rotation.instance_ids,
            )
        ]
    if rotation.phase == rotations.SWITCHED and not rotation.instance_ids:
        return []  # an empty list of canaries would mean everybody
    return [
        _directive(
            rotation,
            _TARGETS[each["kind"]],
            below_generation=each["new"],
            instance_ids=rotation.instance_ids,
        )
        for each in rotation.authorities
        if each["kind"] in _TARGETS
    ]


def _back(session: Session, rotation: Rotation, now: dt.datetime) -> list[pb.RenewalDirective]:
    """Those whom the generation certified that has been taken back."""
    found = []
    for each in rotation.authorities:
        if each["kind"] not in _TARGETS:
            continue
        holders = leaves.instances(session, each["kind"], leaves.of_generation(each["new"]), now)
        if holders:
            found.append(
                _directive(
                    rotation,
                    _TARGETS[each["kind"]],
                    issued_before=rotation.window_start,
                    instance_ids=holders if len(holders) <= _MAX_NAMES else (),
                )
            )
    return found


def _directive(
    rotation: Rotation,
    target: pb.RenewalTarget.ValueType,
    *,
    below_generation: int = 0,
    issued_before: dt.datetime | None = None,
    instance_ids: Sequence[str] = (),
) -> pb.RenewalDirective:
    assert rotation.window_start is not None  # noqa: S101  `directives` saw to it
    return pb.RenewalDirective(
        rotation_id=rotations.name(rotation),
        target=target,
        below_generation=below_generation,
        issued_before=None if issued_before is None else answers.timestamp(issued_before),
        instance_ids=instance_ids,
        window=trust_pb2.RenewalWindow(
            start_time=answers.timestamp(rotation.window_start),
            end_time=answers.timestamp(rotation.window_end or rotation.window_start),
            reason=f"{rotations.name(rotation)}: {rotation.reason}",
        ),
    )
