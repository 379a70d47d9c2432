"""Waits for a rotation and shows how it goes."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from pki.cli.connection import Issuer
from pki.cli.console import Console
from pki.cli.documents import enum_name, kind_name
from pki.cli.exits import Exit
from trove_grpc.errors import DeadlineError, UnavailableError
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as pb

Phase: TypeAlias = pb.RotationPhase.ValueType

# Where nothing moves any more, whatever was hoped for.
ENDED: frozenset[Phase] = frozenset(
    {pb.ROTATION_PHASE_RETIRED, pb.ROTATION_PHASE_ABORTED, pb.ROTATION_PHASE_ROLLED_BACK}
)
GATES: frozenset[Phase] = frozenset({pb.ROTATION_PHASE_READY, pb.ROTATION_PHASE_DRAINED})


@dataclass(frozen=True, slots=True)
class Waited:
    """How the waiting ended, with what was seen last."""

    rotation: pb.Rotation
    status: Exit
    message: str = ""


async def follow(
    issuer: Issuer,
    rotation: pb.Rotation,
    goals: Collection[Phase],
    *,
    console: Console,
    timeout: dt.timedelta | None,
    leaving: Phase | None = None,
    interval: float,
) -> Waited:
    """Look until the rotation reaches one of `goals`, stops, or `timeout` is over.

    `leaving` is the gate it was just let through: the issuer has the consent and moves soon.
    An issuer that is away meanwhile is waited for: rotations survive its restarts.
    """
    clock = asyncio.get_running_loop().time
    ends = None if timeout is None else clock() + timeout.total_seconds()
    shown = _Shown(console)
    try:
        while True:
            shown.update(progress_line(rotation))
            if waited := _verdict(rotation, goals, leaving):
                return waited
            if ends is not None and clock() >= ends:
                return Waited(
                    rotation,
                    Exit.PARTIAL,
                    f"{rotation.rotation_id} goes on; look again with "
                    f"`trove-pki rotate status {rotation.rotation_id}`",
                )
            await asyncio.sleep(interval)
            try:
                answer = await issuer.call(
                    issuer.authorities.GetRotation,
                    pb.GetRotationRequest(rotation_id=rotation.rotation_id),
                )
                rotation = answer.rotation
            except (UnavailableError, DeadlineError) as error:
                shown.update(f"{rotation.rotation_id}  the issuer is away: {error.message}")
    finally:
        shown.finish()


def _verdict(
    rotation: pb.Rotation, goals: Collection[Phase], leaving: Phase | None
) -> Waited | None:
    name = rotation.rotation_id
    if rotation.phase in goals:
        return Waited(rotation, Exit.OK)
    if rotation.is_paused:
        return Waited(
            rotation,
            Exit.PARTIAL,
            f"{name} is paused: {rotation.pause_reason or 'no reason was given'}; go on with "
            f"`trove-pki rotate resume {name}` or go back with `trove-pki rotate rollback {name}`",
        )
    if rotation.phase in ENDED:
        return Waited(rotation, Exit.PARTIAL, f"{name} ended as {phase_name(rotation.phase)}")
    is_waiting = rotation.phase in GATES and rotation.phase != leaving
    if is_waiting and not rotation.is_automatic:
        return Waited(
            rotation,
            Exit.PARTIAL,
            f"{name} is {phase_name(rotation.phase)} and waits for an operator: "
            f"`trove-pki rotate advance {name}`",
        )
    return None


class _Shown:
    """One line that is written over where that is possible, else a line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def update(self, line: str) -> None:
        if line == self._last:
            return
        self._last = line
        if self._console.is_live:
            self._console.over(line)
        else:
            self._console.note(line)

    def finish(self) -> None:
        if self._last and self._console.is_live:
            self._console.note("")


def progress_line(rotation: pb.Rotation) -> str:
    """Who has followed, who has not, and how many renewals failed."""
    return (
        f"{rotation.rotation_id}  {subject(rotation)}  {phase_name(rotation.phase)}  "
        f"{progress_text(rotation)}"
    )


def progress_text(rotation: pb.Rotation) -> str:
    progress = rotation.progress
    parts = [f"guests {progress.guests_reissued}/{progress.guests} re-issued"]
    parts.append(f"{progress.guests_acknowledged}/{progress.guests_online} acknowledged")
    parts.append(f"{progress.guests - progress.guests_online} offline")
    if progress.services:
        parts.append(
            f"services {progress.services_reissued}/{progress.services} re-issued, "
            f"{progress.services_acknowledged}/{progress.services} acknowledged"
        )
    if progress.engines:
        parts.append(f"engines {progress.engines_reissued}/{progress.engines} re-issued")
    parts.append(f"errors {error_rate(rotation):.1%}")
    return ", ".join(parts)


def error_rate(rotation: pb.Rotation) -> float:
    progress = rotation.progress
    return progress.errors / progress.renewals if progress.renewals else 0.0


def phase_name(phase: int) -> str:
    return enum_name(pb.RotationPhase, phase, "ROTATION_PHASE")


def subject(rotation: pb.Rotation) -> str:
    """`guest g5->g6`, or what else is rotated."""
    if not rotation.authorities:
        return enum_name(pb.RotationKind, rotation.kind, "ROTATION_KIND").lower()
    names = []
    for each in rotation.authorities:
        new = f"g{each.new_generation}" if each.new_generation else "new"
        names.append(f"{kind_name(each.kind)} g{each.old_generation}->{new}")
    return ", ".join(names)
