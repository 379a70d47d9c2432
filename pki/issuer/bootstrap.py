"""Makes the authorities, once; loads what signs, at every start.

A key is in custody before the database knows its certificate, and a key that is in custody is
taken up again: killed between any two steps, the next `init` ends in the same place.
"""

from __future__ import annotations

import datetime as dt

from cryptography.hazmat.primitives import serialization
from sqlalchemy.orm import Session

from pki import profiles
from pki.authority import Authorities
from pki.custody import Custody
from pki.issuer import generations, seal
from pki.issuer.checkpoints import CheckpointFile
from pki.issuer.config import Config
from pki.models import Authority
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
    known = {row.kind for row in authorities.list_all(session)}
    signers = Authorities(custody)
    created = []
    for kind, name in ((kind, profiles.KIND_NAMES[kind]) for kind in profiles.PARENTS):
        if name in known:
            continue
        key_name = generations.key_name(name, _FIRST)
        key = generations.ensure_key(custody, key_name)
        parent = profiles.PARENTS[kind]
        signer = None if parent == kind else signers.signer(session, parent, now)
        certificate = generations.certify(
            config, kind, key, generation=_FIRST, signer=signer, now=now
        )
        row = authorities.add(
            session,
            Authority(
                kind=name,
                generation=_FIRST,
                state=authorities.ACTIVE,
                key_name=key_name,
                certificate_pem=certificate.public_bytes(serialization.Encoding.PEM),
                create_time=now,
                signed_by_generation=_FIRST if signer is None else signer.generation,
                state_time=now,
            ),
        )
        authorities.new_bundle(session, now)
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
    """Read the keys that sign leaves; the roots' keys stay in custody.

    Raises NotFoundError before `trove-pki init`. A kind whose generation is tainted has no signer
    and stops nobody else.
    """
    signers = Authorities(custody)
    rows = authorities.list_all(session)
    intermediates = [kind for kind, parent in profiles.PARENTS.items() if parent != kind]
    for name in (profiles.KIND_NAMES[kind] for kind in intermediates):
        if all(row.kind != name for row in rows):
            raise NotFoundError(f"there is no {name} authority yet; run `trove-pki init`")
    names = {profiles.KIND_NAMES[kind] for kind in intermediates}
    signers.preload([row for row in rows if row.kind in names and row.state == authorities.ACTIVE])
    return signers
