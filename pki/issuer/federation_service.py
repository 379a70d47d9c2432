"""Trust in other regions. The issuer calls nobody: operators bring the bundles."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.orm import Session

from pki.issuer import answers
from pki.issuer.config import Config
from pki.models import FederatedBundle
from pki.store import Store, audit, authorities, federation
from trove_grpc import context
from trove_grpc.errors import ConflictError, InvalidRequestError
from trove_grpc.gen.issuer.v1 import federation_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import federation_service_pb2_grpc as rpc
from trove_grpc.identity import key_hash

_TRUST_DOMAIN = re.compile(r"\A[a-z0-9][a-z0-9.-]{0,127}\Z", re.ASCII)
_PIN = re.compile(r"\A(?:[0-9a-f]{64})?\Z", re.ASCII)
_URL = re.compile(r"\A(?:https://[!-~]{1,240})?\Z", re.ASCII)
# Every holder of our bundle carries them all, guests too.
_MAX_REGIONS = 16
_MAX_ROOTS = 4
_MAX_ROOT_BYTES = 4096
_MAX_SEQUENCE = 2**53  # what JSON keeps exactly


class FederationServicer(rpc.FederationServiceServicer):
    """Serves FederationService on the internal listener and on the operator socket."""

    def __init__(
        self,
        store: Store,
        config: Config,
        *,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._store = store
        self._config = config
        self._now = now

    async def PutFederatedBundle(self, request: pb.PutFederatedBundleRequest, context: Any) -> Any:
        wanted, now = self._wanted(request.federation), self._now()
        actor = _actor()
        kept = await self._store.run(lambda session: _put(session, wanted, actor, now))
        return pb.PutFederatedBundleResponse(federation=kept)

    async def ListFederatedBundles(
        self, request: pb.ListFederatedBundlesRequest, context: Any
    ) -> Any:
        return pb.ListFederatedBundlesResponse(
            federations=await self._store.run(
                lambda session: [_answer(region) for region in federation.list_all(session)]
            )
        )

    async def RemoveFederatedBundle(
        self, request: pb.RemoveFederatedBundleRequest, context: Any
    ) -> Any:
        name, actor, now = _trust_domain(request.trust_domain), _actor(), self._now()
        was_removed = await self._store.run(lambda session: _remove(session, name, actor, now))
        return pb.RemoveFederatedBundleResponse(was_removed=was_removed)

    def _wanted(self, asked: pb.Federation) -> FederatedBundle:
        """What to keep, in bounds; raises InvalidRequestError."""
        bundle, now = asked.bundle, self._now()
        name = _trust_domain(bundle.trust_domain)
        if name == self._config.trust_domain:
            raise InvalidRequestError(f"{name} is this trust domain; name another region's")
        if not 0 < bundle.sequence <= _MAX_SEQUENCE:
            raise InvalidRequestError(f"sequence must be 1 to {_MAX_SEQUENCE}")
        if not 0 < len(bundle.root_pems) <= _MAX_ROOTS:
            raise InvalidRequestError(
                f"the bundle of {name} has {len(bundle.root_pems)} roots; 1 to {_MAX_ROOTS} "
                "are accepted"
            )
        if not _URL.match(asked.endpoint_url):
            raise InvalidRequestError("endpoint_url must be an https URL, or empty")
        if not _PIN.match(asked.pin):
            raise InvalidRequestError("pin must be a SHA-256 in lower-case hex, or empty")
        return FederatedBundle(
            trust_domain=name,
            sequence=bundle.sequence,
            root_pems=[_root(pem, now) for pem in bundle.root_pems],
            endpoint_url=asked.endpoint_url,
            pin=asked.pin,
            refresh_time=now,
        )


def _put(session: Session, wanted: FederatedBundle, actor: str, now: dt.datetime) -> pb.Federation:
    authorities.domain(session)
    regions = federation.list_all(session)
    known = next((each for each in regions if each.trust_domain == wanted.trust_domain), None)
    if known is None and len(regions) >= _MAX_REGIONS:
        raise ConflictError(
            f"{_MAX_REGIONS} other trust domains are trusted already; remove one first",
            reason="TOO_MANY_REGIONS",
        )
    _require_own_roots(session, wanted, regions)
    if known is not None:
        _require_newer(known, wanted)
        if _content(known) == _content(wanted):
            known.refresh_time = now
            session.flush()
            return _answer(known)
        known.sequence, known.root_pems = wanted.sequence, wanted.root_pems
        known.endpoint_url, known.pin = wanted.endpoint_url, wanted.pin
        known.refresh_time = now
        session.flush()
    else:
        federation.add(session, wanted)
    version = authorities.new_bundle(session, now)
    audit.append(
        session,
        now=now,
        actor=actor,
        action="put-federated-bundle",
        subject=wanted.trust_domain,
        detail={
            "sequence": wanted.sequence,
            "roots": " ".join(_key_of(pem)[:16] for pem in wanted.root_pems),
            "bundle": version,
        },
    )
    return _answer(known or wanted)


def _remove(session: Session, name: str, actor: str, now: dt.datetime) -> bool:
    known = federation.find(session, name)
    if known is None:
        return False
    federation.remove(session, known)
    version = authorities.new_bundle(session, now)
    audit.append(
        session,
        now=now,
        actor=actor,
        action="remove-federated-bundle",
        subject=name,
        detail={"bundle": version},
    )
    return True


def _require_newer(known: FederatedBundle, wanted: FederatedBundle) -> None:
    """A bundle never goes back, nor changes under its number; raises ConflictError."""
    is_other = wanted.sequence == known.sequence and wanted.root_pems != known.root_pems
    if wanted.sequence < known.sequence or is_other:
        raise ConflictError(
            f"the bundle of {known.trust_domain} with sequence {wanted.sequence} is older than "
            f"the one at hand ({known.sequence}), or another of its number; fetch the present "
            "one, or remove that region and add it again",
            reason="STALE_BUNDLE",
            subject=known.trust_domain,
        )


def _require_own_roots(
    session: Session, wanted: FederatedBundle, regions: Sequence[FederatedBundle]
) -> None:
    """Whoever may sign for one region may not for another, nor for us; raises ConflictError."""
    taken = {
        _key_of(authority.certificate_pem.decode()) for authority in authorities.list_all(session)
    }
    for region in regions:
        if region.trust_domain != wanted.trust_domain:
            taken.update(_key_of(pem) for pem in region.root_pems)
    if not taken.isdisjoint(_key_of(pem) for pem in wanted.root_pems):
        raise ConflictError(
            f"a root in the bundle of {wanted.trust_domain} is one of another trust domain, or "
            "our own; is it the right file?",
            reason="SHARED_ROOT",
            subject=wanted.trust_domain,
        )


def _content(region: FederatedBundle) -> tuple[int, list[str], str, str]:
    return region.sequence, region.root_pems, region.endpoint_url, region.pin


def _answer(region: FederatedBundle) -> pb.Federation:
    bundle = federation.message(region)
    bundle.refresh_time.CopyFrom(answers.timestamp(region.refresh_time))
    return pb.Federation(bundle=bundle, endpoint_url=region.endpoint_url, pin=region.pin)


def _trust_domain(value: str) -> str:
    if not _TRUST_DOMAIN.match(value):
        raise InvalidRequestError(
            "trust_domain must be at most 128 lower-case letters, digits, '.' and '-'"
        )
    return value


def _root(pem: bytes, now: dt.datetime) -> str:
    """One root as PEM of our own writing; raises InvalidRequestError when it is none."""
    if len(pem) > _MAX_ROOT_BYTES:
        raise InvalidRequestError(f"a root has more than {_MAX_ROOT_BYTES} bytes")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        problem = _root_problem(certificate, now)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise InvalidRequestError("a root is no CA certificate in PEM") from error
    if problem:
        raise InvalidRequestError(f"a root of the bundle {problem}")
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _root_problem(certificate: x509.Certificate, now: dt.datetime) -> str:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return "has a key that is not P-256"
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    if not constraints.ca or not usage.key_cert_sign or constraints.path_length == 0:
        return "may not sign authorities"
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return "is not signed by itself"
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        return "is not valid now"
    return ""


def _key_of(pem: str) -> str:
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101  ours are, theirs were checked
    return key_hash(key)


def _actor() -> str:
    return context.caller().uri
