"""Control-plane services as the issuer saw them last."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import Certificate, Service


def saw(
    session: Session, name: str, *, serial: str, held_bundle_version: int, now: dt.datetime
) -> None:
    """Note what a service holds: its acknowledgement of a bundle and of a certificate."""
    known = session.get(Service, name)
    if known is None:
        session.add(
            Service(
                name=name,
                serial=serial,
                held_bundle_version=held_bundle_version,
                last_seen_time=now,
            )
        )
    else:
        known.serial = serial
        known.held_bundle_version = held_bundle_version
        known.last_seen_time = now
    session.flush()


def seen_since(session: Session, moment: dt.datetime) -> Sequence[Service]:
    return session.scalars(
        sa.select(Service).where(Service.last_seen_time >= moment).order_by(Service.name)
    ).all()


def with_certificates(session: Session) -> Sequence[tuple[Service, Certificate | None]]:
    """All of them, each with the record of the certificate it showed last."""
    rows = session.execute(
        sa.select(Service, Certificate)
        .outerjoin(Certificate, Certificate.serial == Service.serial)
        .order_by(Service.name)
    )
    return [(service, certificate) for service, certificate in rows]
