"""Who a peer certificate says it is.

grpcio's own SAN properties stop at a NUL byte, so identity is read from the PEM with
`cryptography`: exactly one URI SAN, matched by one anchored expression, in a certificate that
carries exactly our profile. Names that are not a SPIFFE ID of ours are never looked at.
"""

from __future__ import annotations

import dataclasses
import datetime as dt

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from trove_grpc.errors import UnauthenticatedError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.names import (
    ANONYMOUS,
    LOCAL,
    SERVICE_ROLES,
    TENANT_ID,
    Identity,
    Role,
    breakglass_uri,
    guest_uri,
    operator_uri,
    parse_uri,
    service_dns_name,
    service_uri,
)

__all__ = [
    "ANONYMOUS",
    "LOCAL",
    "SERVICE_ROLES",
    "TENANT_ID",
    "Identity",
    "Role",
    "breakglass_uri",
    "check_validity",
    "guest_uri",
    "identify",
    "identify_peer",
    "key_hash",
    "operator_uri",
    "parse_uri",
    "serial_hex",
    "service_dns_name",
    "service_uri",
]


_KIND_BY_ROLE = {
    Role.GUEST: trust_pb2.AUTHORITY_KIND_GUEST,
    Role.OPERATOR: trust_pb2.AUTHORITY_KIND_OPERATOR,
    Role.BREAKGLASS: trust_pb2.AUTHORITY_KIND_OPERATOR,
    **dict.fromkeys(SERVICE_ROLES, trust_pb2.AUTHORITY_KIND_SERVICE),
}

_PURPOSES_OF_A_SERVICE = frozenset(
    {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
)
_SCHEME = "spiffe://"
# What a peer shows of its chain: leaf, intermediate, perhaps roots that are crossed.
_MAX_CHAIN = 6
_MAX_CHAIN_BYTES = 32 * 1024


def key_hash(public_key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 over the SubjectPublicKeyInfo, hex: the name of a key."""
    spki = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki)
    return digest.finalize().hex()


def serial_hex(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"


def identify(pem: bytes, bundle: trust_pb2.TrustBundle) -> Identity:
    """Read and check the profile of a leaf certificate of our own trust domain.

    The handshake proved the chain; here we demand what grpcio lets through (measured: no SAN,
    several URIs, EKU absent, CA:true, missing AKI, RSA keys, an authority below ours although its
    path length forbids one) and that the authority which signed it, itself, is of the kind its
    name claims. Does not look at time; see `check_validity`.

    Raises UnauthenticatedError, reason BAD_PROFILE or BAD_IDENTITY.
    """
    certificate, named, key_id = _read(pem, bundle.trust_domain)
    authority = _authority(bundle, key_id)
    if authority is None or authority.kind != _KIND_BY_ROLE[named.role]:
        raise _bad_profile(f"{named.uri} is not signed by an authority of its kind")
    _require_signature(certificate, authority, named.uri)
    return dataclasses.replace(
        _with_facts(named, certificate), generation=authority.generation, certificate_pem=pem
    )


def identify_peer(pem: bytes, chain_pem: bytes, bundle: trust_pb2.TrustBundle) -> Identity:
    """Who the peer of a listener is that other regions may reach.

    The trust domain that the certificate names chooses whose authorities it is held against: the
    handshake accepts the roots of all of them together, whoever each signed. `chain_pem` is what
    the peer showed: of other regions the roots alone are known here.

    Raises what `identify` does.
    """
    domain = _claimed_domain(pem)
    for region in bundle.federated:
        if region.trust_domain == domain != bundle.trust_domain:
            return _identify_federated(pem, chain_pem, region)
    return identify(pem, bundle)


def _identify_federated(
    pem: bytes, chain_pem: bytes, region: trust_pb2.FederatedBundle
) -> Identity:
    """A service of another region, as Role.FEDERATED: there it may be a gateway, here never.

    It lives as long as the shortest-lived certificate of its path.
    """
    certificate, named, _ = _read(pem, region.trust_domain)
    if named.role not in SERVICE_ROLES:
        raise UnauthenticatedError(
            f"{named.uri} is no service; of {region.trust_domain} only services are known here",
            reason="BAD_IDENTITY",
        )
    path = [certificate, *_federated_path(certificate, chain_pem, region, named.uri)]
    return dataclasses.replace(
        _with_facts(named, certificate),
        role=Role.FEDERATED,
        name=f"{named.role}/{named.name}",
        not_valid_before=max(each.not_valid_before_utc for each in path),
        not_valid_after=min(each.not_valid_after_utc for each in path),
        certificate_pem=pem,
    )


def _federated_path(
    certificate: x509.Certificate, chain_pem: bytes, region: trust_pb2.FederatedBundle, uri: str
) -> tuple[x509.Certificate, x509.Certificate]:
    """The intermediate and the root of that region above a leaf; raises when there are none."""
    roots = [x509.load_pem_x509_certificate(pem) for pem in region.root_pems]
    for intermediate in _shown_chain(chain_pem):
        if not _signs_services(intermediate) or not _is_signed_by(certificate, intermediate):
            continue
        for root in roots:
            if _is_signed_by(intermediate, root):
                return intermediate, root
    raise _bad_profile(f"{uri} is not signed below a root of {region.trust_domain}")


def _shown_chain(chain_pem: bytes) -> list[x509.Certificate]:
    if len(chain_pem) > _MAX_CHAIN_BYTES:
        raise _bad_profile(f"a chain of more than {_MAX_CHAIN_BYTES} bytes")
    try:
        return x509.load_pem_x509_certificates(chain_pem)[:_MAX_CHAIN]
    except ValueError as error:
        raise _bad_profile("no chain was shown") from error


def _signs_services(authority: x509.Certificate) -> bool:
    """Whether this is an authority for services.

    Its purposes tell it from those for guests and operators, which are for clients alone: one of
    them that names a service signs beyond its kind.
    """
    try:
        extensions = authority.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False
    return constraints.ca and usage.key_cert_sign and frozenset(purposes) == _PURPOSES_OF_A_SERVICE


def _is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _claimed_domain(pem: bytes) -> str:
    """The trust domain a certificate names; empty where `identify` will say what is wrong."""
    try:
        uris, _ = _alternative_names(x509.load_pem_x509_certificate(pem))
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return ""
    if len(uris) != 1 or not uris[0].startswith(_SCHEME):
        return ""
    return uris[0].removeprefix(_SCHEME).partition("/")[0]


def _read(pem: bytes, trust_domain: str) -> tuple[x509.Certificate, Identity, bytes | None]:
    """The certificate, whom it names, the key identifier of its authority; signature unseen."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        uris, dns_names = _alternative_names(certificate)
        problem = _profile_problem(certificate)
        key_id = certificate.extensions.get_extension_for_class(
            x509.AuthorityKeyIdentifier
        ).value.key_identifier
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise _bad_profile(str(error)) from error
    if problem:
        raise _bad_profile(problem)
    if len(uris) != 1:
        raise _bad_profile(f"{len(uris)} URI names, expected one")
    named = parse_uri(uris[0], trust_domain)
    if named.role not in SERVICE_ROLES and dns_names:
        raise _bad_profile("DNS names in a client's certificate")
    if (purposes := _purposes(certificate)) != _expected_purposes(named.role):
        raise _bad_profile(f"extended key usage {sorted(oid.dotted_string for oid in purposes)}")
    return certificate, named, key_id


def _with_facts(named: Identity, certificate: x509.Certificate) -> Identity:
    public_key = certificate.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)  # noqa: S101  _profile_problem saw to it
    return dataclasses.replace(
        named,
        serial=serial_hex(certificate),
        key_hash=key_hash(public_key),
        not_valid_before=certificate.not_valid_before_utc,
        not_valid_after=certificate.not_valid_after_utc,
    )


def check_validity(identity: Identity, now: dt.datetime) -> None:
    """Refuse an expired identity: TLS checks time at the handshake only."""
    if identity.not_valid_after is not None and now >= identity.not_valid_after:
        raise UnauthenticatedError(
            f"certificate {identity.serial} expired at {identity.not_valid_after:%FT%TZ}",
            reason="CERTIFICATE_EXPIRED",
            subject=identity.uri,
        )


def _bad_profile(problem: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"certificate refused: {problem}", reason="BAD_PROFILE")


def _alternative_names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    dns_names = names.get_values_for_type(x509.DNSName)
    if len(uris) + len(dns_names) != len(names):
        raise ValueError("names other than URI and DNS")
    return uris, dns_names


def _profile_problem(certificate: x509.Certificate) -> str:
    public_key = certificate.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, ec.SECP256R1
    ):
        return "the key is not P-256"
    if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        return "a CA certificate is no identity"
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    if not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        return "key usage is not digitalSignature alone"
    return ""


def _purposes(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier]:
    try:
        value = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise _bad_profile("no extended key usage") from error
    return frozenset(value)


def _expected_purposes(role: Role) -> frozenset[x509.ObjectIdentifier]:
    if role in SERVICE_ROLES:
        return _PURPOSES_OF_A_SERVICE
    return frozenset({ExtendedKeyUsageOID.CLIENT_AUTH})


def _require_signature(
    certificate: x509.Certificate, authority: trust_pb2.AuthorityCertificate, uri: str
) -> None:
    """A key identifier is text that any signer may write; the signature is not."""
    issuer = x509.load_pem_x509_certificate(authority.certificate_pem)
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _bad_profile(f"{uri} is not signed by the authority it names") from error


def _authority(
    bundle: trust_pb2.TrustBundle, key_id: bytes | None
) -> trust_pb2.AuthorityCertificate | None:
    for authority in bundle.authorities:
        certificate = x509.load_pem_x509_certificate(authority.certificate_pem)
        subject_key = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        if subject_key.value.digest == key_id:
            return authority
    return None
