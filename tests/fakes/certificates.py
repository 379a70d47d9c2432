"""A whole PKI in memory for tests: real profiles, real keys, no issuer process."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pki import profiles, requests
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import Role, guest_uri
from trove_grpc.tls import IdentityDirectory, KeyMaterial

HOUR = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Signer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


class TestAuthority:
    """All six authorities, and identities signed by them, good and bad."""

    __test__ = False  # not a test class, whatever pytest reads into its name

    def __init__(self, trust_domain: str = "local.trove") -> None:
        self.trust_domain = trust_domain
        self.signers: dict[profiles.Kind, Signer] = {}
        # Generations that sign no longer, oldest first, and a new root as the old one signed it.
        self.older: list[tuple[profiles.Kind, int, Signer]] = []
        self.crossed: dict[profiles.Kind, bytes] = {}
        self.generations = dict.fromkeys(profiles.PARENTS, 1)
        now = dt.datetime.now(dt.UTC)
        for kind, parent in profiles.PARENTS.items():
            key = requests.new_key()
            common = {"trust_domain": trust_domain, "generation": 1, "now": now}
            if kind == parent:
                builder = profiles.root(
                    kind, key.public_key(), lifetime=dt.timedelta(days=3650), **common
                )
                self.signers[kind] = Signer(builder.sign(key, hashes.SHA256()), key)
            else:
                builder = profiles.intermediate(
                    kind,
                    key.public_key(),
                    self.signers[parent].certificate,
                    lifetime=dt.timedelta(days=365),
                    **common,
                )
                self.signers[kind] = Signer(self.signers[parent].sign(builder), key)

    def bundle(self, version: int = 1) -> trust_pb2.TrustBundle:
        bundle = trust_pb2.TrustBundle(trust_domain=self.trust_domain, version=version)
        for kind, generation, signer in self.older:
            bundle.authorities.add(
                kind=kind,
                generation=generation,
                state=trust_pb2.AUTHORITY_STATE_DRAINING,
                certificate_pem=signer.pem,
            )
        for kind, signer in self.signers.items():
            bundle.authorities.add(
                kind=kind,
                generation=self.generations[kind],
                state=trust_pb2.AUTHORITY_STATE_ACTIVE,
                certificate_pem=signer.pem,
            )
        return bundle

    def rotate(self, kind: profiles.Kind) -> None:
        """Another generation signs from now on; a root with its children, crossed by the old."""
        old, parent = self.signers[kind], profiles.PARENTS[kind]
        self.older.append((kind, self.generations[kind], old))
        self.generations[kind] += 1
        key = requests.new_key()
        common = {
            "trust_domain": self.trust_domain,
            "generation": self.generations[kind],
            "now": dt.datetime.now(dt.UTC),
        }
        lifetime = dt.timedelta(days=365)
        if kind != parent:
            builder = profiles.intermediate(
                kind,
                key.public_key(),
                self.signers[parent].certificate,
                lifetime=lifetime - dt.timedelta(days=1),
                **common,
            )
            self.signers[kind] = Signer(self.signers[parent].sign(builder), key)
            return
        builder = profiles.root(kind, key.public_key(), lifetime=lifetime, **common)
        self.signers[kind] = Signer(builder.sign(key, hashes.SHA256()), key)
        crossed = old.sign(_crossed(self.signers[kind].certificate, old.certificate))
        self.crossed[kind] = crossed.public_bytes(serialization.Encoding.PEM)
        for child, its_parent in profiles.PARENTS.items():
            if its_parent == kind and child != kind:
                self.rotate(child)

    def identity_for_service(
        self,
        role: Role,
        path: Path,
        *,
        host: str = "localhost",
        lifetime: dt.timedelta = HOUR,
    ) -> IdentityDirectory:
        key, signer = requests.new_key(), self.signers[trust_pb2.AUTHORITY_KIND_SERVICE]
        builder = profiles.service(
            key.public_key(),
            signer.certificate,
            trust_domain=self.trust_domain,
            role=role,
            host=host,
            lifetime=lifetime,
            now=dt.datetime.now(dt.UTC),
        )
        return self._install(path, key, signer.sign(builder), signer)

    def identity_for_operator(
        self, name: str, path: Path, *, lifetime: dt.timedelta = HOUR
    ) -> IdentityDirectory:
        key, signer = requests.new_key(), self.signers[trust_pb2.AUTHORITY_KIND_OPERATOR]
        builder = profiles.operator(
            key.public_key(),
            signer.certificate,
            trust_domain=self.trust_domain,
            name=name,
            lifetime=lifetime,
            now=dt.datetime.now(dt.UTC),
        )
        return self._install(path, key, signer.sign(builder), signer)

    def identity_for_guest(
        self,
        tenant_id: str,
        instance_id: str,
        path: Path,
        *,
        lifetime: dt.timedelta = HOUR,
        expired: bool = False,
        not_yet_valid: bool = False,
        purposes: Sequence[x509.ObjectIdentifier] | None = profiles.CLIENT,
        certificate_authority: bool = False,
        uri: str | None = None,
        extra_uris: Sequence[str] = (),
        dns_names: Sequence[str] = (),
        without_names: bool = False,
        without_authority_key_id: bool = False,
        signed_by: profiles.Kind = trust_pb2.AUTHORITY_KIND_GUEST,
        foreign_root: bool = False,
    ) -> IdentityDirectory:
        """A guest's identity. Defaults give what the issuer would; each other argument spoils it.

        `purposes=None` leaves the EKU out; `uri` replaces the SPIFFE ID by any text (NUL and
        all); `foreign_root` signs with authorities of the same names and other keys.
        """
        authority = TestAuthority(self.trust_domain) if foreign_root else self
        key, signer = requests.new_key(), authority.signers[signed_by]
        now = dt.datetime.now(dt.UTC)
        start, end = now - dt.timedelta(minutes=10), now + lifetime
        if expired:
            start, end = now - 2 * HOUR, now - dt.timedelta(seconds=1)
        if not_yet_valid:
            start, end = now + HOUR, now + 2 * HOUR
        text = guest_uri(self.trust_domain, tenant_id, instance_id) if uri is None else uri
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(each) for each in (text, *extra_uris)
        ]
        names += [x509.DNSName(name) for name in dns_names]
        pristine = profiles.leaf(
            key.public_key(),
            signer.certificate,
            names,
            purposes or profiles.CLIENT,
            start=start,
            end=end,
        )
        builder = _without_extensions(key, signer, start, end)
        for extension in signer.sign(pristine).extensions:
            value: x509.ExtensionType = extension.value
            if isinstance(value, x509.ExtendedKeyUsage) and purposes is None:
                continue
            if isinstance(value, x509.SubjectAlternativeName) and without_names:
                continue
            if isinstance(value, x509.AuthorityKeyIdentifier) and without_authority_key_id:
                continue
            if isinstance(value, x509.BasicConstraints) and certificate_authority:
                value = x509.BasicConstraints(ca=True, path_length=None)
            builder = builder.add_extension(value, critical=extension.critical)
        return self._install(path, key, signer.sign(builder), signer)

    def engine_certificate(
        self, *, dns_names: Sequence[str] = (), ip_addresses: Sequence[str] = ()
    ) -> tuple[KeyMaterial, bytes]:
        """Key and chain of a database listener, and the PEM root its clients trust."""
        key, signer = requests.new_key(), self.signers[trust_pb2.AUTHORITY_KIND_DATABASE]
        builder = profiles.engine(
            key.public_key(),
            signer.certificate,
            dns_names=dns_names,
            ip_addresses=[str(ipaddress.ip_address(address)) for address in ip_addresses],
            lifetime=HOUR,
            now=dt.datetime.now(dt.UTC),
        )
        material = _material(key, signer.sign(builder), signer)
        return material, self.signers[trust_pb2.AUTHORITY_KIND_DATABASE_ROOT].pem

    def guest_chain(
        self,
        tenant_id: str,
        instance_id: str,
        csr_der: bytes,
        *,
        lifetime: dt.timedelta = HOUR,
    ) -> bytes:
        """Chain for a guest's CSR: what a fake gateway answers to Enrol and Renew."""
        signer = self.signers[trust_pb2.AUTHORITY_KIND_GUEST]
        public_key = x509.load_der_x509_csr(csr_der).public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        builder = profiles.guest(
            public_key,
            signer.certificate,
            trust_domain=self.trust_domain,
            tenant_id=tenant_id,
            instance_id=instance_id,
            lifetime=lifetime,
            now=dt.datetime.now(dt.UTC),
        )
        return signer.sign(builder).public_bytes(serialization.Encoding.PEM) + signer.pem

    def engine_chain(
        self,
        csr_der: bytes,
        *,
        dns_names: Sequence[str] = (),
        ip_addresses: Sequence[str] = (),
    ) -> bytes:
        """Chain for an engine's CSR: what a fake gateway answers to IssueEngineCertificate."""
        signer = self.signers[trust_pb2.AUTHORITY_KIND_DATABASE]
        public_key = x509.load_der_x509_csr(csr_der).public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        builder = profiles.engine(
            public_key,
            signer.certificate,
            dns_names=dns_names,
            ip_addresses=ip_addresses,
            lifetime=HOUR,
            now=dt.datetime.now(dt.UTC),
        )
        root = trust_pb2.AUTHORITY_KIND_DATABASE_ROOT
        leaf = signer.sign(builder).public_bytes(serialization.Encoding.PEM)
        return leaf + signer.pem + self.crossed.get(root, b"")

    def service_chain(self, csr_der: bytes, role: Role, *, host: str = "localhost") -> bytes:
        """Chain for a service's CSR: what a fake issuer answers to RenewService."""
        signer = self.signers[trust_pb2.AUTHORITY_KIND_SERVICE]
        public_key = x509.load_der_x509_csr(csr_der).public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        builder = profiles.service(
            public_key,
            signer.certificate,
            trust_domain=self.trust_domain,
            role=role,
            host=host,
            lifetime=HOUR,
            now=dt.datetime.now(dt.UTC),
        )
        return signer.sign(builder).public_bytes(serialization.Encoding.PEM) + signer.pem

    def _install(
        self,
        path: Path,
        key: ec.EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        signer: Signer,
    ) -> IdentityDirectory:
        identity = IdentityDirectory(path)
        identity.install(_material(key, certificate, signer), self.bundle())
        return identity


def _crossed(root: x509.Certificate, by: x509.Certificate) -> x509.CertificateBuilder:
    """The same name and key as `root`, under `by`."""
    by_key = by.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateBuilder()
        .subject_name(root.subject)
        .issuer_name(by.subject)
        .public_key(root.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(min(root.not_valid_after_utc, by.not_valid_after_utc))
    )
    for extension in root.extensions:
        value = extension.value
        if isinstance(value, x509.AuthorityKeyIdentifier):
            value = x509.AuthorityKeyIdentifier(by_key.digest, None, None)
        builder = builder.add_extension(value, critical=extension.critical)
    return builder


def _without_extensions(
    key: ec.EllipticCurvePrivateKey,
    signer: Signer,
    start: dt.datetime,
    end: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .subject_name(x509.Name([]))
        .issuer_name(signer.certificate.subject)
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _material(
    key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, signer: Signer
) -> KeyMaterial:
    chain = certificate.public_bytes(serialization.Encoding.PEM) + signer.pem
    return KeyMaterial(key_pem=requests.key_pem(key), chain_pem=chain)
