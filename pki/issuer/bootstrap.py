"""Makes the authorities, once; loads what signs, at every start.

A key is in custody before the database knows its certificate, and a key that is in custody is
taken up again: killed between any two steps, the next `init` ends in the same place.
"""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from sqlalchemy.orm import Session

from pki import profiles
from pki.authority import Authorities, Signer
from pki.custody import Custody, CustodyError
from pki.issuer import seal
from pki.issuer.checkpoints import CheckpointFile
from pki.issuer.config import Config
from pki.models import Authority
from pki.requests import new_key
from pki.store import audit, authorities
from trove_grpc.errors import NotFoundError

_FIRST = 1


def initialise(
    session: Session, custody: Custody, config: Config, now: dt.datetime
) -> list[Authority]:
    """Create what is missing of the six authorities; returns the new ones.

    Raises SealedError where a PKI was in use already, and only its database is gone.
    """
    seal.refuse_second_beginning(session, custody, CheckpointFile(config.checkpoints_path))
    authorities.ensure_domain(session, config.trust_domain, now)
    known = {row.kind for row in authorities.list_all(session) if row.state == authorities.ACTIVE}
    created = []
    for kind, name in ((kind, profiles.KIND_NAMES[kind]) for kind in profiles.PARENTS):
        if name in known:
            continue
        key_name = _key_name(kind)
        # Stored again when it is there: that finishes what a killed run left half done.
        key = custody.load(key_name) if custody.exists(key_name) else new_key()
        custody.store(key_name, key)
        certificate = _certify(session, custody, config, kind, now=now)
        row = authorities.add(
            session,
            kind=name,
            generation=_FIRST,
            key_name=key_name,
            certificate_pem=certificate.public_bytes(serialization.Encoding.PEM),
            now=now,
        )
        audit.append(session, now=now, actor="init", action="create-authority", subject=key_name)
        created.append(row)
    return created


def keep_certificates(session: Session, custody: Custody) -> None:
    """Put each committed certificate beside its key: with both, a lost database is made anew.

    Only after the commit: what is in custody cannot be taken back.
    """
    for row in authorities.list_all(session):
        custody.store_certificate(row.key_name, row.certificate_pem)


def load(session: Session, custody: Custody) -> Authorities:
    """Read the keys that sign leaves; the roots' keys stay in custody."""
    intermediates = [kind for kind, parent in profiles.PARENTS.items() if parent != kind]
    return Authorities({kind: _signer(session, custody, kind) for kind in intermediates})


def _key_name(kind: profiles.Kind) -> str:
    return f"{profiles.KIND_NAMES[kind]}-g{_FIRST}"


def _certify(
    session: Session,
    custody: Custody,
    config: Config,
    kind: profiles.Kind,
    *,
    now: dt.datetime,
) -> x509.Certificate:
    key = custody.load(_key_name(kind))
    parent = profiles.PARENTS[kind]
    if parent == kind:
        builder = profiles.root(
            kind,
            key.public_key(),
            trust_domain=config.trust_domain,
            generation=_FIRST,
            lifetime=config.root_lifetime,
            now=now,
        )
        return builder.sign(key, hashes.SHA256())
    signer = _signer(session, custody, parent)
    return signer.sign(
        profiles.intermediate(
            kind,
            key.public_key(),
            signer.certificate,
            trust_domain=config.trust_domain,
            generation=_FIRST,
            lifetime=config.intermediate_lifetime,
            now=now,
            margin=config.authority_margin,
        )
    )


def _signer(session: Session, custody: Custody, kind: profiles.Kind) -> Signer:
    name = profiles.KIND_NAMES[kind]
    rows = [
        row
        for row in authorities.list_all(session)
        if row.kind == name and row.state == authorities.ACTIVE
    ]
    if not rows:
        raise NotFoundError(f"there is no {name} authority yet; run `trove-pki init`")
    row = max(rows, key=lambda each: each.generation)
    certificate = x509.load_pem_x509_certificate(row.certificate_pem)
    key = custody.load(row.key_name)
    if key.public_key() != certificate.public_key():
        raise CustodyError(
            f"the key {row.key_name} in custody is not the one of its certificate in the "
            "database; restore both from one backup"
        )
    return Signer(kind, row.generation, certificate, key)
