"""Rotations as they are shown: an object for programs, a few lines for people."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any

from pki.cli import times, waiting
from pki.cli.connection import Issuer
from pki.cli.documents import enum_name, kind_name, time_of
from pki.cli.invocation import Invocation
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as pb


def row_of(rotation: pb.Rotation) -> dict[str, Any]:
    progress = rotation.progress
    return {
        "rotation_id": rotation.rotation_id,
        "kind": enum_name(pb.RotationKind, rotation.kind, "ROTATION_KIND").lower(),
        "authorities": [
            {
                "authority": kind_name(each.kind),
                "old_generation": each.old_generation,
                "new_generation": each.new_generation,
            }
            for each in rotation.authorities
        ],
        "instance_ids": list(rotation.instance_ids),
        "phase": waiting.phase_name(rotation.phase),
        "phase_time": time_of(rotation, "phase_time"),
        "is_automatic": rotation.is_automatic,
        "is_paused": rotation.is_paused,
        "pause_reason": rotation.pause_reason,
        "bundle_version": rotation.bundle_version,
        "progress": {
            field.name: getattr(progress, field.name)
            for field in pb.RotationProgress.DESCRIPTOR.fields
        },
        "error_rate": round(waiting.error_rate(rotation), 4),
        "next": rotation.next,
        "create_time": time_of(rotation, "create_time"),
        "actor": rotation.actor,
        "lease_owner": rotation.lease_owner,
        "lease_fence": rotation.lease_fence,
    }


async def fetch(issuer: Issuer, *, open_only: bool = True) -> list[pb.Rotation]:
    return await issuer.pages(
        issuer.authorities.ListRotations, pb.ListRotationsRequest(open_only=open_only), "rotations"
    )


def show(invocation: Invocation, found: Collection[pb.Rotation]) -> None:
    """Rotations as a table with a line of detail below each."""
    console = invocation.console
    if not console.is_for_people:
        console.document([row_of(rotation) for rotation in found])
        return
    if not found:
        console.line("no rotation is open")
        return
    for rotation in found:
        since = time_of(rotation, "phase_time")
        age = (
            ""
            if since is None
            else f"  for {times.span(max(invocation.now - since, dt.timedelta(0)))}"
        )
        paused = f"  PAUSED ({rotation.pause_reason})" if rotation.is_paused else ""
        console.line(
            f"{rotation.rotation_id}  {waiting.subject(rotation)}  "
            f"{waiting.phase_name(rotation.phase)}{age}{paused}"
        )
        console.line(f"  {waiting.progress_text(rotation)}")
        lease = f"   lease {rotation.lease_owner} fence {rotation.lease_fence}"
        held = lease if rotation.lease_owner else ""
        console.line(f"  bundle v{rotation.bundle_version}{held}")
        if rotation.next:
            console.line(f"  next: {rotation.next}")
