"""First certificates of the services and our own, over the issuer's operator socket.

Running services renew themselves; this is for those that have none, or lost it while down.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
from pathlib import Path

from cryptography import x509

from pki.enrolment import enrol_service, fetch_bundle, issue_operator
from trove_grpc.errors import TroveError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import Role, identify
from trove_grpc.tls import IdentityDirectory
from trovectl import layout
from trovectl.children import OURSELVES, Account

log = logging.getLogger(__name__)

# Of its life: with less left a certificate is replaced. Services renew at a third.
_LEAST_LEFT = 0.1
_OPERATOR_LEAST_LEFT = 0.5
HOST = "local"


def fraction_left(identity: IdentityDirectory, now: dt.datetime) -> float:
    """How much of the certificate's life is left, 0 to 1; 0 as well when there is none."""
    try:
        leaf: x509.Certificate = identity.load().leaf
        identity.bundle()
    except (TroveError, ValueError):
        return 0.0
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    left: float = (leaf.not_valid_after_utc - now) / life
    return max(0.0, left)


async def ensure_service(
    socket: Path, role: Role, path: Path, *, account: Account = OURSELVES, host: str = HOST
) -> bool:
    """Enrol a service unless it has a certificate with life left; True when it was enrolled.

    One that was down for a whole rotation cannot renew by itself: nobody trusts who signed it.
    """
    identity = IdentityDirectory(path)
    if fraction_left(identity, dt.datetime.now(dt.UTC)) > _LEAST_LEFT:
        bundle = await fetch_bundle(socket)
        if signing_generation(identity.load().chain_pem, bundle) is not None:
            return False
    fresh = _fresh(path)
    await enrol_service(socket, role, host, IdentityDirectory(fresh))
    _put(fresh, path, account)
    log.info("the %s (%s) got a new certificate", role, host)
    return True


async def ensure_operator(socket: Path, path: Path, *, name: str = "trovectl") -> bool:
    """Keep our own certificate and bundle, with which readiness and status are asked.

    A rotation of the operators' authority replaces the certificate at once: the old generation
    is retired when nothing it signed is alive.
    """
    identity = IdentityDirectory(path)
    if fraction_left(identity, dt.datetime.now(dt.UTC)) > _OPERATOR_LEAST_LEFT:
        bundle = await fetch_bundle(socket)
        identity.store_bundle(bundle)
        if is_of_active_generation(identity.load().chain_pem, bundle):
            return False
    fresh = _fresh(path)
    await issue_operator(socket, name, IdentityDirectory(fresh))
    _put(fresh, path, OURSELVES)
    return True


def signing_generation(chain_pem: bytes, bundle: trust_pb2.TrustBundle) -> int | None:
    """The generation that signed this leaf; None when it is trusted no more."""
    try:
        return identify(chain_pem, bundle).generation
    except TroveError:
        return None


def is_of_active_generation(chain_pem: bytes, bundle: trust_pb2.TrustBundle) -> bool:
    """Whether the operators' authority that signs now signed this leaf."""
    active = {
        authority.generation
        for authority in bundle.authorities
        if authority.kind == trust_pb2.AUTHORITY_KIND_OPERATOR
        and authority.state == trust_pb2.AUTHORITY_STATE_ACTIVE
    }
    return signing_generation(chain_pem, bundle) in active


def _fresh(path: Path) -> Path:
    """A directory only we can write to, beside the one that will be replaced."""
    fresh = path.with_name(f".{path.name}.new")
    layout.remove_tree(fresh)
    layout.make_directory(fresh, mode=0o700)
    return fresh


def _put(fresh: Path, path: Path, account: Account) -> None:
    layout.give_tree(fresh, account)
    old = path.with_name(f".{path.name}.old")
    layout.remove_tree(old)
    if path.exists():
        os.rename(path, old)  # noqa: PTH104  of directories, replaced as a whole
    fresh.rename(path)
    layout.remove_tree(old)
