"""Authorities that were compromised, and lists of revoked serials for other software."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from sqlalchemy.orm import Session

from pki import profiles
from pki.authority import Authorities
from pki.issuer import phases
from pki.issuer.config import Config
from pki.issuer.progress import NAMED, NOBODY, Left, describe
from pki.models import Authority, Certificate, Rotation
from pki.store import audit, authorities, certificates, denials, leaves, rotations, subjects
from trove_grpc.errors import ConflictError, NotFoundError

# How long other software may go by one list.
_CRL_LIFETIME = dt.timedelta(days=1)
_GONE = (authorities.DESTROYED,)


def find(session: Session, kind: str, generation: int) -> Authority:
    """Raises NotFoundError; generation 0 is the one that signs."""
    row = (
        authorities.find(session, kind, generation)
        if generation
        else authorities.active(session, kind)
    )
    if row is None:
        raise NotFoundError(
            f"there is no {kind} g{generation or '(active)'}; see `trove-pki ca list`",
            reason="UNKNOWN_AUTHORITY",
            subject=f"{kind}/{generation}",
        )
    return row


def taint(
    session: Session,
    kind: str,
    generation: int,
    config: Config,
    *,
    reason: str,
    without_successor: bool,
    actor: str,
    now: dt.datetime,
) -> tuple[Authority, Left]:
    """Refuse everything a generation signed, at once. Those who need a token now come back too.

    A root takes the intermediates along that it signed. Where the generation signs and a
    rotation holds its successor READY, the successor takes over in the same transaction.
    Raises ConflictError (NO_SUCCESSOR).
    """
    rotations.lock_domain(session)
    row = find(session, kind, generation)
    if row.state == authorities.TAINTED:
        return row, NOBODY
    doomed = [row, *_signed_by(session, row)]
    if row.state == authorities.ACTIVE:
        successor = _successor(session, kind)
        if successor is not None:
            phases.switch(session, successor, config, now)
        elif not without_successor:
            raise ConflictError(
                f"{kind} g{generation} signs and nothing can take its place: rotate it first, or "
                "repeat with --no-successor; then everybody it certified needs a new enrolment",
                reason="NO_SUCCESSOR",
                subject=f"{kind}/{generation}",
            )
    affected: set[str] = set()
    for each in doomed:
        which = leaves.of_generation(each.generation)
        if each.kind in {leaves.GUEST, leaves.ENGINE}:
            affected |= set(leaves.instances(session, each.kind, which, now))
        _taint_one(session, each, reason, actor, now)
    authorities.new_bundle(session, now)
    why = f"its certificate is of the tainted {kind} g{generation}"
    return row, Left(
        total=len(affected),
        named=[
            describe(session, each, config, why, now)
            for each in subjects.of_ids(session, sorted(affected)[:NAMED])
        ],
    )


def _successor(session: Session, kind: str) -> Rotation | None:
    """The rotation that can switch now; none where its own generation was tainted."""
    found = rotations.ready_for(session, kind)
    if found is None:
        return None
    new = phases.new_generations(session, found)
    return None if any(each.state == authorities.TAINTED for each in new) else found


def _taint_one(
    session: Session, row: Authority, reason: str, actor: str, now: dt.datetime
) -> None:
    name = f"{row.kind}/{row.generation}"
    denials.write(session, kind=denials.GENERATION, value=name, reason=reason, now=now)
    certificates.mark_denied(
        session,
        Certificate.kind == row.kind,
        Certificate.generation == row.generation,
        Certificate.state.in_(certificates.LIVE),
    )
    authorities.set_state(session, row, authorities.TAINTED, now)
    audit.append(
        session,
        now=now,
        actor=actor,
        action="taint-authority",
        subject=name,
        detail={"reason": reason},
    )


def _signed_by(session: Session, root: Authority) -> list[Authority]:
    children = profiles.CHILDREN.get(profiles.KINDS_BY_NAME[root.kind], ())
    return [
        row
        for child in children
        for row in authorities.of_kind(session, profiles.KIND_NAMES[child])
        if row.signed_by_generation == root.generation and row.state != authorities.TAINTED
    ]


def revoked(session: Session, row: Authority, now: dt.datetime) -> list[tuple[int, dt.datetime]]:
    """(serial, since when) of what is not to be accepted although it has not expired."""
    rows = certificates.revoked(session, row.kind, row.generation, now)
    return [(int(serial, 16), since or now) for serial, since in rows]


def sign_crl(
    signers: Authorities,
    row: Authority,
    serials: Sequence[tuple[int, dt.datetime]],
    now: dt.datetime,
) -> bytes:
    """DER. Asks custody: not within a transaction. Raises NotFoundError when the key is gone."""
    if row.state in _GONE:
        raise NotFoundError(
            f"the key of {row.kind} g{row.generation} is destroyed; its last leaf has expired",
            reason="KEY_DESTROYED",
            subject=row.key_name,
        )
    issuer = x509.load_pem_x509_certificate(row.certificate_pem)
    key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now)
        .next_update(now + _CRL_LIFETIME)
        .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(key_id.digest, None, None), critical=False)
    )
    for serial, since in serials:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(serial)
            .revocation_date(min(since, now))
            .build()
        )
    crl = builder.sign(signers.read(row), hashes.SHA256())
    return crl.public_bytes(serialization.Encoding.DER)
