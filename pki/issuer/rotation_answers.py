"""Rotations and authorities as messages, with what comes next in words."""

from __future__ import annotations

import datetime as dt

from cryptography import x509

from pki.issuer.answers import timestamp
from pki.issuer.config import Config
from pki.issuer.progress import Progress, Stranded
from pki.models import Authority, Rotation
from pki.profiles import KINDS_BY_NAME
from pki.store import rotations
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as pb


def authority(
    row: Authority, *, live_leaves: int, last_expiry: dt.datetime | None
) -> pb.Authority:
    certificate = x509.load_pem_x509_certificate(row.certificate_pem)
    return pb.Authority(
        certificate=trust_pb2.AuthorityCertificate(
            kind=KINDS_BY_NAME[row.kind],
            generation=row.generation,
            state=trust_pb2.AuthorityState.Value(f"AUTHORITY_STATE_{row.state}"),
            certificate_pem=row.certificate_pem,
            cross_certificate_pem=row.cross_certificate_pem or b"",
        ),
        signed_by_generation=row.signed_by_generation,
        expire_time=timestamp(certificate.not_valid_after_utc),
        create_time=timestamp(row.create_time),
        live_leaves=live_leaves,
        last_leaf_expire_time=None if last_expiry is None else timestamp(last_expiry),
    )


def stranded(each: Stranded) -> pb.Stranded:
    return pb.Stranded(
        instance_id=each.instance_id,
        why=each.why,
        last_seen_time=None if each.last_seen_time is None else timestamp(each.last_seen_time),
        is_recoverable=each.is_recoverable,
        command=each.command,
    )


def rotation(row: Rotation, measured: Progress, config: Config, *, trouble: str) -> pb.Rotation:
    """`trouble` is why it does not move although it could."""
    return pb.Rotation(
        rotation_id=rotations.name(row) if row.number else "",
        kind=pb.RotationKind.Value(f"ROTATION_KIND_{row.kind}"),
        authorities=[
            pb.RotatingAuthority(
                kind=KINDS_BY_NAME[entry["kind"]],
                old_generation=entry["old"],
                new_generation=entry["new"],
            )
            for entry in row.authorities
        ],
        instance_ids=row.instance_ids if row.kind == rotations.LEAF else (),
        phase=pb.RotationPhase.Value(f"ROTATION_PHASE_{row.phase}"),
        phase_time=timestamp(row.phase_time),
        is_automatic=row.is_automatic,
        is_paused=row.is_paused,
        pause_reason=row.pause_reason,
        progress=_progress(row, measured),
        next=_next(row, measured, config, trouble),
        create_time=timestamp(row.create_time),
        actor=row.actor,
        window=_window(row),
        bundle_version=row.bundle_version or 0,
        lease_owner=row.lease_owner,
        lease_fence=row.lease_fence,
    )


def _progress(row: Rotation, measured: Progress) -> pb.RotationProgress:
    return pb.RotationProgress(
        guests=measured.guests,
        guests_online=measured.guests_online,
        guests_acknowledged=measured.guests_acknowledged,
        guests_reissued=measured.guests_reissued,
        services=measured.services,
        services_acknowledged=measured.services_acknowledged,
        services_reissued=measured.services_reissued,
        engines=measured.engines,
        engines_reissued=measured.engines_reissued,
        renewals=row.renewals,
        errors=row.errors,
        old_leaves=measured.old_leaves,
    )


def _window(row: Rotation) -> trust_pb2.RenewalWindow | None:
    if row.window_start is None or row.window_end is None:
        return None
    return trust_pb2.RenewalWindow(
        start_time=timestamp(row.window_start),
        end_time=timestamp(row.window_end),
        reason=row.reason,
    )


def _next(row: Rotation, measured: Progress, config: Config, trouble: str) -> str:
    if row.is_paused:
        return f"paused: {row.pause_reason}"
    if trouble:
        return f"cannot go on yet: {trouble}"
    soaked = row.phase_time + config.rotation_soak
    texts = {
        rotations.PLANNED: "makes keys",
        rotations.KEY_CREATED: "certifies them",
        rotations.CERTIFICATE_SIGNED: "puts them into the bundle",
        rotations.DISTRIBUTING: (
            f"waits for the bundle to arrive: {measured.services_acknowledged} of "
            f"{measured.services} services and {measured.guests_acknowledged} of "
            f"{measured.guests_online} guests online hold it"
        ),
        rotations.READY: f"switches at {soaked:%FT%TZ}"
        if row.is_automatic or row.consented_phase
        else "switches with your consent: `trove-pki rotate advance`",
        rotations.SWITCHED: "waits for the first agents to renew",
        rotations.REISSUING: f"waits for {measured.old_leaves} older certificates to be replaced",
        rotations.DRAINED: "retires the old generation once nobody would be stranded"
        if row.is_automatic or row.consented_phase == rotations.RETIRED
        else "retires the old generation with your consent: `trove-pki rotate retire`",
        rotations.ROLLED_BACK: f"{measured.old_leaves} certificates of the new generation are left"
        if measured.old_leaves
        else "ended",
    }
    return texts.get(row.phase, "ended")
