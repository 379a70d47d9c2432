"""Takes up leaves that a rebuilt database does not know (docs/adr/0028).

A leaf is genuine when our key signed it; whether it was refused since, only the lost database
knew. So it comes back once, when its holder asks for its successor, and only where nothing that
is known speaks against it.
"""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy.orm import Session

from pki import profiles
from pki.issuer import ledger
from pki.models import Certificate
from pki.store import audit, authorities, certificates, checkpoints, subjects
from trove_grpc.identity import SERVICE_ROLES, Identity, Role

_GUEST = "guest"
_SERVICE = "service"
_USABLE = frozenset({"TRUSTED", "ACTIVE", "DRAINING", "RETIRED"})


def adopt_guest(session: Session, shown: Identity, now: dt.datetime) -> Certificate | None:
    """Make the record of an unknown leaf, as of one not yet used; None where it must not be.

    Raises UnauthenticatedError when something it names is denied.
    """
    if shown.role is not Role.GUEST or (leaf := _genuine(session, shown, _GUEST)) is None:
        return None
    # Locked: of two leaves shown at one moment the older one must not come in behind the newer.
    subject = subjects.find_locked(session, shown.instance_id)
    if subject is None or subject.state != subjects.ACTIVE or subject.tenant_id != shown.tenant_id:
        return None
    row = _record(session, shown, leaf, _GUEST)
    row.instance_id, row.enrol_epoch = subject.instance_id, subject.enrol_epoch
    ledger.refuse_denied(
        session,
        now,
        certificate=row,
        instance_id=subject.instance_id,
        tenant_id=subject.tenant_id,
    )
    if _has_newer(session, row):
        return None
    return _keep(session, row, now)


def adopt_service(session: Session, shown: Identity, now: dt.datetime) -> Certificate | None:
    """The same for a service's; it needs no registration, its name says what it is."""
    if shown.role not in SERVICE_ROLES:
        return None
    if (leaf := _genuine(session, shown, _SERVICE)) is None:
        return None
    row = _record(session, shown, leaf, _SERVICE)
    ledger.refuse_denied(session, now, certificate=row)
    return _keep(session, row, now)


def _genuine(session: Session, shown: Identity, kind: str) -> x509.Certificate | None:
    """The leaf, when a generation of ours signed it before the last rebuild."""
    domain = authorities.domain(session)
    rebuilt = checkpoints.rebuild_time(session, domain.epoch)
    if rebuilt is None or certificates.by_key(session, shown.key_hash) is not None:
        return None
    leaf = x509.load_pem_x509_certificate(shown.certificate_pem)
    if leaf.not_valid_before_utc + _backdate(kind) > rebuilt:
        return None
    for authority in authorities.list_all(session):
        if (authority.kind, authority.generation) != (kind, shown.generation):
            continue
        if authority.state not in _USABLE:
            return None
        issuer = x509.load_pem_x509_certificate(authority.certificate_pem)
        try:
            leaf.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            return None
        return leaf
    return None


def _backdate(kind: str) -> dt.timedelta:
    return profiles.GUEST_BACKDATE if kind == _GUEST else profiles.SERVICE_BACKDATE


def _record(session: Session, shown: Identity, leaf: x509.Certificate, kind: str) -> Certificate:
    issuer = next(
        row
        for row in authorities.list_all(session)
        if (row.kind, row.generation) == (kind, shown.generation)
    )
    first = x509.load_pem_x509_certificates(shown.certificate_pem)[0]
    return Certificate(
        serial=shown.serial,
        key_hash=shown.key_hash,
        kind=kind,
        generation=shown.generation,
        name=shown.uri,
        state=certificates.PENDING,
        chain_pem=first.public_bytes(Encoding.PEM) + issuer.certificate_pem,
        issue_time=leaf.not_valid_before_utc + _backdate(kind),
        expire_time=leaf.not_valid_after_utc,
    )


def _has_newer(session: Session, row: Certificate) -> bool:
    """Whether the instance got a certificate that is as new: then this one is an old copy."""
    newest = certificates.latest_issue(session, row.instance_id, _GUEST)
    return newest is not None and newest >= row.issue_time


def _keep(session: Session, row: Certificate, now: dt.datetime) -> Certificate:
    certificates.add(session, row)
    audit.append(
        session,
        now=now,
        actor=row.name,
        action="adopt-certificate",
        subject=row.instance_id or row.name,
        detail={"serial": row.serial},
    )
    return row
