"""Forged certificates: an authority of ours signs what the issuer would refuse to.

For an installation, its keys are read from its custody directory. An attacker cannot: a case that
needs an authority's signature asks what a check is worth if the issuer had a fault.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pki import profiles, requests
from tests.fakes.certificates import Signer, TestAuthority
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import guest_uri
from trove_grpc.tls import KeyMaterial

MINUTE = dt.timedelta(minutes=1)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
CODE = ExtendedKeyUsageOID.CODE_SIGNING

USAGE = {
    "digital_signature": True,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A guest's certificate as the issuer would make it; each changed field spoils it."""

    names: tuple[x509.GeneralName, ...] = ()
    purposes: tuple[x509.ObjectIdentifier, ...] | None = (CLIENT,)
    usage: tuple[str, ...] = ()  # more than digitalSignature
    signs_nothing: bool = False  # without digitalSignature
    is_authority: bool = False
    has_authority_key_id: bool = True
    subject: str = ""
    starts: dt.timedelta = -10 * MINUTE
    ends: dt.timedelta = 60 * MINUTE
    key: str = "P-256"
    more: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    without: tuple[type[x509.ExtensionType], ...] = ()
    issuer_subject: x509.Name | None = None  # the whole subject
    key_id: x509.SubjectKeyIdentifier | None = None
    signed_by: Any = trust_pb2.AUTHORITY_KIND_GUEST

    def with_(self, **changes: Any) -> Leaf:
        return dataclasses.replace(self, **changes)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier._init_without_validation(text)  # NUL, non-ASCII and all


class Forge:
    """Signs anything with the authorities it is given."""

    def __init__(
        self, signers: Mapping[profiles.Kind, Signer], bundle: trust_pb2.TrustBundle
    ) -> None:
        self.signers = dict(signers)
        self.bundle = bundle
        self.trust_domain = bundle.trust_domain
        self.foreign = TestAuthority(self.trust_domain)  # same names, other keys

    @staticmethod
    def of_installation(issuer: Path, bundle: trust_pb2.TrustBundle) -> Forge:
        """With the keys in an issuer's directory."""
        passphrase = (issuer / "passphrase").read_bytes().strip()
        signers = {}
        for authority in bundle.authorities:
            name = f"{profiles.KIND_NAMES[authority.kind]}-g{authority.generation}.key"
            key = serialization.load_pem_private_key(
                (issuer / "custody" / name).read_bytes(), passphrase
            )
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            certificate = x509.load_pem_x509_certificate(authority.certificate_pem)
            signers[authority.kind] = Signer(certificate, key)
        return Forge(signers, bundle)

    @property
    def root_pem(self) -> bytes:
        return self.signers[trust_pb2.AUTHORITY_KIND_ROOT].pem

    def guest(self, tenant_id: str, instance_id: str) -> Leaf:
        return Leaf(names=(uri(guest_uri(self.trust_domain, tenant_id, instance_id)),))

    def sign(
        self,
        leaf: Leaf,
        *,
        signer: Signer | None = None,
        chain: Sequence[Signer] | None = None,
        key_id_of: x509.Certificate | None = None,
    ) -> KeyMaterial:
        """Key and chain.

        `signer` stands in for an authority of ours; `chain` is what is shown; `key_id_of` is the
        authority the leaf says signed it.
        """
        signer = signer or self.signers[leaf.signed_by]
        key = new_key(leaf.key)
        builder = self._builder(leaf, key.public_key(), signer, key_id_of or signer.certificate)
        certificate = builder.sign(signer.key, hashes.SHA256())
        shown = (signer,) if chain is None else chain
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        return KeyMaterial(
            key_pem=_key_pem(key), chain_pem=pem + b"".join(each.pem for each in shown)
        )

    def self_signed(self, leaf: Leaf) -> KeyMaterial:
        key = requests.new_key()
        own = Signer(
            profiles.root(
                trust_pb2.AUTHORITY_KIND_GUEST,
                key.public_key(),
                trust_domain=self.trust_domain,
                generation=1,
                lifetime=60 * MINUTE,
                now=dt.datetime.now(dt.UTC),
            ).sign(key, hashes.SHA256()),
            key,
        )
        builder = self._builder(leaf, key.public_key(), own, own.certificate)
        certificate = builder.sign(key, hashes.SHA256())
        return KeyMaterial(
            key_pem=_key_pem(key), chain_pem=certificate.public_bytes(serialization.Encoding.PEM)
        )

    def below_a_leaf(
        self,
        leaf: Leaf,
        *,
        is_authority: bool,
        takes_key_id: bool = False,
        takes_name: bool = False,
    ) -> KeyMaterial:
        """A leaf signed by a guest's leaf, or by an authority made below the guests' own.

        That authority may take the key identifier and the name of the guests' own.
        """
        guests = self.signers[trust_pb2.AUTHORITY_KIND_GUEST].certificate
        parent = self.sign(
            leaf.with_(
                is_authority=is_authority,
                usage=("key_cert_sign",) if is_authority else (),
                issuer_subject=guests.subject if takes_name else None,
                key_id=_key_id(guests) if takes_key_id else None,
            )
        )
        key = serialization.load_pem_private_key(parent.key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        signer = Signer(parent.leaf, key)
        return self.sign(
            leaf, signer=signer, chain=(signer, self.signers[trust_pb2.AUTHORITY_KIND_GUEST])
        )

    def authority_itself(self, kind: int) -> KeyMaterial:
        signer = self.signers[kind]
        return KeyMaterial(key_pem=_key_pem(signer.key), chain_pem=signer.pem)

    def _builder(
        self, leaf: Leaf, public_key: Any, signer: Signer, named: x509.Certificate
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, leaf.subject)] if leaf.subject else []
        usage = {**USAGE, **dict.fromkeys(leaf.usage, True)}
        usage["digital_signature"] = not leaf.signs_nothing
        if leaf.signs_nothing:
            usage["key_agreement"] = True
        parts: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=leaf.is_authority, path_length=None), True),
            (x509.KeyUsage(**usage), True),
            (leaf.key_id or x509.SubjectKeyIdentifier.from_public_key(public_key), False),
            *leaf.more,
        ]
        if leaf.purposes is not None:
            parts.append((x509.ExtendedKeyUsage(leaf.purposes), False))
        if leaf.names:
            parts.append((x509.SubjectAlternativeName(leaf.names), not leaf.subject))
        if leaf.has_authority_key_id:
            key_id = _key_id(named)
            parts.append(
                (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), False)
            )
        builder = x509.CertificateBuilder(
            issuer_name=signer.certificate.subject,
            subject_name=leaf.issuer_subject or x509.Name(subject),
            public_key=public_key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now + leaf.starts,
            not_valid_after=now + leaf.ends,
        )
        for extension, critical in parts:
            if not isinstance(extension, leaf.without):
                builder = builder.add_extension(extension, critical=critical)
        return builder


def new_key(kind: str) -> Any:
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind.startswith("RSA-"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("RSA-")))
    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    return ec.generate_private_key(curves[kind])


def address_name(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_address(text))


def _key_id(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value


def _key_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem
