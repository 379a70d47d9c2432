"""Authorities, their generations, and the trust bundle made of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence

import sqlalchemy as sa
from google.protobuf import timestamp_pb2
from sqlalchemy.orm import Session

from pki.models import Authority, Counter, Domain
from pki.profiles import KINDS_BY_NAME
from pki.store import counters, federation, news
from trove_grpc.errors import ConflictError, NotFoundError
from trove_grpc.gen.common.v1 import trust_pb2

PREPARED = "PREPARED"
TRUSTED = "TRUSTED"
ACTIVE = "ACTIVE"
DRAINING = "DRAINING"
RETIRED = "RETIRED"
TAINTED = "TAINTED"
DESTROYED = "DESTROYED"
# Generations that peers are told of.
_IN_BUNDLE = (TRUSTED, ACTIVE, DRAINING, TAINTED)
# Generations that ever signed: what a guest shows that was off for a whole rotation.
EVER_IN_BUNDLE = (*_IN_BUNDLE, RETIRED, DESTROYED)


def ensure_domain(session: Session, trust_domain: str, now: dt.datetime) -> Domain:
    """Create the first rows of an empty database; refuse one of another trust domain."""
    known = find_domain(session)
    if known is None:
        known = Domain(trust_domain=trust_domain, bundle_version=0, bundle_time=now)
        session.add(known)
        session.add_all(Counter(name=name, value=0) for name in (counters.DENIALS, counters.AUDIT))
        session.flush()
    elif known.trust_domain != trust_domain:
        raise ConflictError(
            f"this database belongs to trust domain {known.trust_domain}, the configuration says "
            f"{trust_domain}; set trust_domain = {known.trust_domain!r}",
            reason="OTHER_TRUST_DOMAIN",
        )
    return known


def list_all(session: Session) -> Sequence[Authority]:
    return session.scalars(sa.select(Authority).order_by(Authority.id)).all()


def find(session: Session, kind: str, generation: int) -> Authority | None:
    return session.scalars(
        sa.select(Authority).where(Authority.kind == kind, Authority.generation == generation)
    ).one_or_none()


def active(session: Session, kind: str) -> Authority | None:
    """The generation that signs now; None when there is none."""
    return session.scalars(
        sa.select(Authority).where(Authority.kind == kind, Authority.state == ACTIVE)
    ).one_or_none()


def of_kind(session: Session, kind: str) -> Sequence[Authority]:
    """Oldest first."""
    return session.scalars(
        sa.select(Authority).where(Authority.kind == kind).order_by(Authority.generation)
    ).all()


def in_states(session: Session, states: Collection[str]) -> Sequence[Authority]:
    return session.scalars(
        sa.select(Authority).where(Authority.state.in_(states)).order_by(Authority.id)
    ).all()


def latest_generation(session: Session, kind: str) -> int:
    """The highest number ever given to a generation of this kind; 0 when there is none."""
    return (
        session.scalar(sa.select(sa.func.max(Authority.generation)).where(Authority.kind == kind))
        or 0
    )


def add(session: Session, authority: Authority) -> Authority:
    """Record a generation whose key is in custody."""
    session.add(authority)
    session.flush()
    return authority


def set_state(session: Session, authority: Authority, state: str, now: dt.datetime) -> None:
    authority.state = state
    authority.state_time = now
    session.flush()


def new_bundle(session: Session, now: dt.datetime) -> int:
    """Give the bundle a new version; that wakes its watchers. Returns the version."""
    session.execute(
        sa.update(Domain).values(bundle_version=Domain.bundle_version + 1, bundle_time=now)
    )
    news.mark(session)
    return bundle_version(session)


def find_domain(session: Session) -> Domain | None:
    """None in a database that is still empty."""
    return session.scalars(sa.select(Domain)).one_or_none()


def domain(session: Session) -> Domain:
    """Raises NotFoundError before `trove-pki init`."""
    found = find_domain(session)
    if found is None or found.bundle_version == 0:
        raise NotFoundError("there is no PKI in this database yet; run `trove-pki init`")
    return found


def bundle_version(session: Session) -> int:
    """Version of the bundle in force; 0 before `trove-pki init`."""
    return session.execute(sa.select(Domain.bundle_version)).scalar_one_or_none() or 0


def bundle(session: Session, *, states: Collection[str] = _IN_BUNDLE) -> trust_pb2.TrustBundle:
    """The trust bundle in force; raises NotFoundError before `trove-pki init`."""
    ours = domain(session)
    created = timestamp_pb2.Timestamp()
    created.FromDatetime(ours.bundle_time)
    result = trust_pb2.TrustBundle(
        trust_domain=ours.trust_domain, version=ours.bundle_version, create_time=created
    )
    for authority in list_all(session):
        if authority.state in states:
            result.authorities.add(
                kind=KINDS_BY_NAME[authority.kind],
                generation=authority.generation,
                state=trust_pb2.AuthorityState.Value(f"AUTHORITY_STATE_{authority.state}"),
                certificate_pem=authority.certificate_pem,
                cross_certificate_pem=authority.cross_certificate_pem or b"",
            )
    result.federated.extend(federation.message(region) for region in federation.list_all(session))
    return result
