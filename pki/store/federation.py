"""Trust in other regions: their roots as an operator put them here."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pki.models import FederatedBundle
from trove_grpc.gen.common.v1 import trust_pb2


def find(session: Session, trust_domain: str) -> FederatedBundle | None:
    return session.get(FederatedBundle, trust_domain)


def list_all(session: Session) -> Sequence[FederatedBundle]:
    return session.scalars(sa.select(FederatedBundle).order_by(FederatedBundle.trust_domain)).all()


def add(session: Session, region: FederatedBundle) -> None:
    session.add(region)
    session.flush()


def remove(session: Session, region: FederatedBundle) -> None:
    session.delete(region)
    session.flush()


def message(region: FederatedBundle) -> trust_pb2.FederatedBundle:
    """As verifiers see it: without its age, which changes while the bundle's version does not."""
    return trust_pb2.FederatedBundle(
        trust_domain=region.trust_domain,
        sequence=region.sequence,
        root_pems=[pem.encode() for pem in region.root_pems],
    )
