"""Metrics that are read from the database: rotations and the authorities' lives."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from sqlalchemy.orm import Session

from pki import metrics
from pki.models import Authority, Rotation
from pki.store import authorities, rotations

# Generations whose end somebody would notice.
_OF_INTEREST = (authorities.TRUSTED, authorities.ACTIVE, authorities.DRAINING)


@dataclass(frozen=True, slots=True)
class Reading:
    """Rows to show."""

    rotations: Sequence[Rotation]
    authorities: Sequence[Authority]


def read(session: Session) -> Reading:
    return Reading(rotations.open_ones(session), authorities.in_states(session, _OF_INTEREST))


def show(reading: Reading, now: dt.datetime) -> None:
    """Replace what was shown: a rotation that ended is shown no more."""
    for gauge in (metrics.ROTATION_PHASE_SECONDS, metrics.ROTATION_PAUSED, metrics.CA_LIFE_LEFT):
        gauge.clear()
    for rotation in reading.rotations:
        name = rotations.name(rotation)
        waited = (now - rotation.phase_time).total_seconds()
        metrics.ROTATION_PHASE_SECONDS.labels(name, rotation.phase).set(waited)
        metrics.ROTATION_PAUSED.labels(name).set(rotation.is_paused)
    for row in reading.authorities:
        certificate = x509.load_pem_x509_certificate(row.certificate_pem)
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        left = (certificate.not_valid_after_utc - now) / life
        metrics.CA_LIFE_LEFT.labels(row.kind, row.generation, row.state).set(left)
