"""New generations of authorities: key, certificate, cross certificate, and proof that they work.

A key's name follows from its authority and generation. So a key that was stored by a process
which died before it said so is found again and taken up, never made twice.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from pki import profiles
from pki.authority import Signer
from pki.custody import Custody, CustodyError
from pki.issuer.config import Config
from pki.requests import new_key
from trove_grpc.errors import ConflictError
from trove_grpc.identity import Role, service_dns_name, service_uri

_TEST_MESSAGE = b"trove-pki: does this key sign?"
_MINUTE = dt.timedelta(minutes=1)


def key_name(authority: str, generation: int) -> str:
    return f"{authority}-g{generation}"


def ensure_key(custody: Custody, name: str) -> ec.EllipticCurvePrivateKey:
    """The key of this name, made if there is none, read back from custody and tried.

    Raises CustodyError when it does not sign, and whatever custody raises.
    """
    # Stored again when it is there: that finishes what a killed run left half done.
    key = custody.load(name) if custody.exists(name) else new_key()
    with contextlib.suppress(ConflictError):  # another issuer was faster: its key is the key
        custody.store(name, key)
    return prove_key(custody, name)


def prove_key(custody: Custody, name: str) -> ec.EllipticCurvePrivateKey:
    """Read a key and sign with it: what custody gives back is what counts."""
    key = custody.load(name)
    signature = key.sign(_TEST_MESSAGE, ec.ECDSA(hashes.SHA256()))
    try:
        key.public_key().verify(signature, _TEST_MESSAGE, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise CustodyError(
            f"the key {name} in custody does not sign; restore it from your backup", subject=name
        ) from error
    return key


def certify(
    config: Config,
    kind: profiles.Kind,
    key: ec.EllipticCurvePrivateKey,
    *,
    generation: int,
    signer: Signer | None,
    now: dt.datetime,
) -> x509.Certificate:
    """The certificate of a generation; without a signer it is a root and signs itself."""
    if signer is None:
        builder = profiles.root(
            kind,
            key.public_key(),
            trust_domain=config.trust_domain,
            generation=generation,
            lifetime=config.root_lifetime,
            now=now,
        )
        return builder.sign(key, hashes.SHA256())
    return signer.sign(
        profiles.intermediate(
            kind,
            key.public_key(),
            signer.certificate,
            trust_domain=config.trust_domain,
            generation=generation,
            lifetime=config.intermediate_lifetime,
            now=now,
            margin=config.authority_margin,
        )
    )


def check_chain(
    config: Config,
    intermediate: Signer,
    root: x509.Certificate,
    *,
    path: Sequence[x509.Certificate] = (),
    now: dt.datetime,
) -> None:
    """Sign a leaf that nobody keeps and verify it up to `root`, by `path` if it needs one.

    Raises CustodyError when it does not verify: key and certificate do not belong together.
    """
    leaf = intermediate.sign(_trial(config, intermediate, now))
    policy = verification.PolicyBuilder().store(verification.Store([root])).time(now)
    between = [intermediate.certificate, *path]
    try:
        if profiles.INTERMEDIATE_PURPOSES[intermediate.kind] == profiles.CLIENT:
            policy.build_client_verifier().verify(leaf, between)
        else:
            name = x509.DNSName(service_dns_name(config.trust_domain, Role.ISSUER))
            policy.build_server_verifier(name).verify(leaf, between)
    except verification.VerificationError as error:
        raise CustodyError(
            f"a leaf of {intermediate!r} does not verify against {root.subject.rfc4514_string()}: "
            f"{error}; roll the rotation back and start another"
        ) from error


def _trial(config: Config, signer: Signer, now: dt.datetime) -> x509.CertificateBuilder:
    purposes = profiles.INTERMEDIATE_PURPOSES[signer.kind]
    names: list[x509.GeneralName] = [
        x509.DNSName(service_dns_name(config.trust_domain, Role.ISSUER))
    ]
    if purposes == profiles.CLIENT:
        names = [
            x509.UniformResourceIdentifier(
                service_uri(config.trust_domain, Role.ISSUER, config.host)
            )
        ]
    return profiles.leaf(
        new_key().public_key(),
        signer.certificate,
        names,
        purposes,
        start=now - _MINUTE,
        end=now + _MINUTE,
    )
