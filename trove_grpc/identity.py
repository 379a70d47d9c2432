"""Who a peer certificate says it is.

grpcio's own SAN properties stop at a NUL byte, so identity is read from the PEM with
`cryptography`: exactly one URI SAN, matched by one anchored expression, in a certificate that
carries exactly our profile. Names that are not a SPIFFE ID of ours are never looked at.
"""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.exceptions import InvalidSignature
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
    """Read and check the profile of a peer's leaf certificate.

    The handshake proved the chain; here we demand what grpcio lets through (measured: no SAN,
    several URIs, EKU absent, CA:true, missing AKI, RSA keys, an authority below ours although its
    path length forbids one) and that the authority which signed it, itself, is of the kind its
    name claims. Does not look at time; see `check_validity`.

    Raises UnauthenticatedError, reason BAD_PROFILE or BAD_IDENTITY.
    """
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
    named = parse_uri(uris[0], bundle.trust_domain)
    if named.role not in SERVICE_ROLES and dns_names:
        raise _bad_profile("DNS names in a client's certificate")
    if (purposes := _purposes(certificate)) != _expected_purposes(named.role):
        raise _bad_profile(f"extended key usage {sorted(oid.dotted_string for oid in purposes)}")
    authority = _authority(bundle, key_id)
    if authority is None or authority.kind != _KIND_BY_ROLE[named.role]:
        raise _bad_profile(f"{named.uri} is not signed by an authority of its kind")
    _require_signature(certificate, authority, named.uri)
    public_key = certificate.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)  # noqa: S101  _profile_problem saw to it
    return Identity(
        role=named.role,
        trust_domain=named.trust_domain,
        name=named.name,
        tenant_id=named.tenant_id,
        instance_id=named.instance_id,
        serial=serial_hex(certificate),
        key_hash=key_hash(public_key),
        generation=authority.generation,
        not_valid_before=certificate.not_valid_before_utc,
        not_valid_after=certificate.not_valid_after_utc,
        certificate_pem=pem,
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
        return frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})
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
