"""What a certificate may contain: one builder for each profile (design: pki C.3).

Nothing here holds a key. A builder states every field, so that a caller chooses a name, a
lifetime and nothing else; grpcio and clients check little of it (design: pki D.3), therefore it
must be right when it is made.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trove_grpc.errors import ConflictError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import (
    Role,
    breakglass_uri,
    guest_uri,
    operator_uri,
    service_dns_name,
    service_uri,
)

Kind: TypeAlias = trust_pb2.AuthorityKind.ValueType

# Names used in certificates, files and commands.
KIND_NAMES: dict[Kind, str] = {
    trust_pb2.AUTHORITY_KIND_ROOT: "root",
    trust_pb2.AUTHORITY_KIND_GUEST: "guest",
    trust_pb2.AUTHORITY_KIND_SERVICE: "service",
    trust_pb2.AUTHORITY_KIND_OPERATOR: "operator",
    trust_pb2.AUTHORITY_KIND_DATABASE_ROOT: "database-root",
    trust_pb2.AUTHORITY_KIND_DATABASE: "database",
}
KINDS_BY_NAME = {name: kind for kind, name in KIND_NAMES.items()}
# Who signs whom; a root signs itself. Order: a parent stands before its children.
PARENTS: dict[Kind, Kind] = {
    trust_pb2.AUTHORITY_KIND_ROOT: trust_pb2.AUTHORITY_KIND_ROOT,
    trust_pb2.AUTHORITY_KIND_DATABASE_ROOT: trust_pb2.AUTHORITY_KIND_DATABASE_ROOT,
    trust_pb2.AUTHORITY_KIND_GUEST: trust_pb2.AUTHORITY_KIND_ROOT,
    trust_pb2.AUTHORITY_KIND_SERVICE: trust_pb2.AUTHORITY_KIND_ROOT,
    trust_pb2.AUTHORITY_KIND_OPERATOR: trust_pb2.AUTHORITY_KIND_ROOT,
    trust_pb2.AUTHORITY_KIND_DATABASE: trust_pb2.AUTHORITY_KIND_DATABASE_ROOT,
}

CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
# An intermediate's EKU bounds its leaves: both TLS stacks refuse a leaf beyond it.
INTERMEDIATE_PURPOSES: dict[Kind, tuple[x509.ObjectIdentifier, ...]] = {
    trust_pb2.AUTHORITY_KIND_GUEST: CLIENT,
    trust_pb2.AUTHORITY_KIND_SERVICE: BOTH,
    trust_pb2.AUTHORITY_KIND_OPERATOR: CLIENT,
    trust_pb2.AUTHORITY_KIND_DATABASE: SERVER,
}
# What each root signs.
CHILDREN: dict[Kind, tuple[Kind, ...]] = {
    root: tuple(kind for kind, parent in PARENTS.items() if parent == root != kind)
    for root in set(PARENTS.values())
}
# Authorities whose leaves never carry an address.
_WITHOUT_ADDRESSES = frozenset({trust_pb2.AUTHORITY_KIND_GUEST, trust_pb2.AUTHORITY_KIND_OPERATOR})

# How far notBefore lies in the past, for clocks that run behind.
_AUTHORITY_BACKDATE = dt.timedelta(hours=1)
GUEST_BACKDATE = dt.timedelta(minutes=10)
SERVICE_BACKDATE = dt.timedelta(minutes=2)
# A leaf ends this long before its issuer, so that no verifier meets a dead issuer first.
ISSUER_MARGIN = dt.timedelta(hours=1)
# X.520 bounds a common name at 64 characters; this leaves room for kind and generation.
MAX_TRUST_DOMAIN = 38

_LEAF_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def root(
    kind: Kind,
    public_key: ec.EllipticCurvePublicKey,
    *,
    trust_domain: str,
    generation: int,
    lifetime: dt.timedelta,
    now: dt.datetime,
) -> x509.CertificateBuilder:
    """A self-signed root: any path length, no EKU (it would have to name every purpose below)."""
    name = authority_name(kind, trust_domain, generation)
    key_id = x509.SubjectKeyIdentifier.from_public_key(public_key)
    return (
        _builder(public_key, name, name, now - _AUTHORITY_BACKDATE, now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_AUTHORITY_USAGE, critical=True)
        .add_extension(key_id, critical=False)
        .add_extension(_authority_key_id(key_id), critical=False)
    )


def cross_root(root_: x509.Certificate, older: x509.Certificate) -> x509.CertificateBuilder:
    """A root's key as the root before it certifies it, for as long as both live."""
    key_id = _stored_key_id(root_)
    public_key = root_.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)  # noqa: S101  our own root
    return (
        _builder(
            public_key,
            root_.subject,
            older.subject,
            root_.not_valid_before_utc,
            min(root_.not_valid_after_utc, older.not_valid_after_utc),
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_AUTHORITY_USAGE, critical=True)
        .add_extension(key_id, critical=False)
        .add_extension(_authority_key_id(_stored_key_id(older)), critical=False)
    )


def intermediate(
    kind: Kind,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    *,
    trust_domain: str,
    generation: int,
    lifetime: dt.timedelta,
    now: dt.datetime,
    margin: dt.timedelta = ISSUER_MARGIN,
) -> x509.CertificateBuilder:
    """An authority that signs leaves alone, of one kind of purpose."""
    builder = (
        _builder(
            public_key,
            authority_name(kind, trust_domain, generation),
            issuer.subject,
            now - _AUTHORITY_BACKDATE,
            _end(issuer, now, lifetime, margin),
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_AUTHORITY_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage(INTERMEDIATE_PURPOSES[kind]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority_key_id(_stored_key_id(issuer)), critical=False)
    )
    if kind in _WITHOUT_ADDRESSES:
        # No URI trees: cryptography's verifier refuses any chain that carries one.
        everywhere = [
            x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
            x509.IPAddress(ipaddress.ip_network("::/0")),
        ]
        builder = builder.add_extension(
            x509.NameConstraints(permitted_subtrees=None, excluded_subtrees=everywhere),
            critical=True,
        )
    return builder


def guest(
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    *,
    trust_domain: str,
    tenant_id: str,
    instance_id: str,
    lifetime: dt.timedelta,
    now: dt.datetime,
    margin: dt.timedelta = ISSUER_MARGIN,
) -> x509.CertificateBuilder:
    """A guest agent: a client and nothing else, with exactly one name."""
    uri = x509.UniformResourceIdentifier(guest_uri(trust_domain, tenant_id, instance_id))
    end = _end(issuer, now, lifetime, margin)
    return leaf(public_key, issuer, [uri], CLIENT, start=now - GUEST_BACKDATE, end=end)


def service(
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    *,
    trust_domain: str,
    role: Role,
    host: str,
    lifetime: dt.timedelta,
    now: dt.datetime,
    margin: dt.timedelta = ISSUER_MARGIN,
) -> x509.CertificateBuilder:
    """A control-plane process: listens and dials; channels verify its one DNS name."""
    names = [
        x509.UniformResourceIdentifier(service_uri(trust_domain, role, host)),
        x509.DNSName(service_dns_name(trust_domain, role)),
    ]
    end = _end(issuer, now, lifetime, margin)
    return leaf(public_key, issuer, names, BOTH, start=now - SERVICE_BACKDATE, end=end)


def operator(
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    *,
    trust_domain: str,
    name: str,
    lifetime: dt.timedelta,
    now: dt.datetime,
    margin: dt.timedelta = ISSUER_MARGIN,
) -> x509.CertificateBuilder:
    """A person or a tool: a client."""
    uri = x509.UniformResourceIdentifier(operator_uri(trust_domain, name))
    end = _end(issuer, now, lifetime, margin)
    return leaf(public_key, issuer, [uri], CLIENT, start=now - SERVICE_BACKDATE, end=end)


def breakglass(
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    *,
    trust_domain: str,
    incident: str,
    lifetime: dt.timedelta,
    now: dt.datetime,
    margin: dt.timedelta = ISSUER_MARGIN,
) -> x509.CertificateBuilder:
    """An emergency: a client, as an operator is."""
    uri = x509.UniformResourceIdentifier(breakglass_uri(trust_domain, incident))
    end = _end(issuer, now, lifetime, margin)
    return leaf(public_key, issuer, [uri], CLIENT, start=now - SERVICE_BACKDATE, end=end)


def engine(
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    *,
    dns_names: Sequence[str],
    ip_addresses: Sequence[str],
    lifetime: dt.timedelta,
    now: dt.datetime,
    margin: dt.timedelta = ISSUER_MARGIN,
) -> x509.CertificateBuilder:
    """A database listener: names a tenant's client dials, and no identity of ours."""
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns_names]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ip_addresses]
    end = _end(issuer, now, lifetime, margin)
    return leaf(public_key, issuer, names, SERVER, start=now - GUEST_BACKDATE, end=end)


def leaf(
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    names: Sequence[x509.GeneralName],
    purposes: Sequence[x509.ObjectIdentifier],
    *,
    start: dt.datetime,
    end: dt.datetime,
) -> x509.CertificateBuilder:
    """What all leaves share: an empty subject, hence a critical SAN (RFC 5280 4.2.1.6)."""
    return (
        _builder(public_key, x509.Name([]), issuer.subject, start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_LEAF_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority_key_id(_stored_key_id(issuer)), critical=False)
    )


def authority_name(kind: Kind, trust_domain: str, generation: int) -> x509.Name:
    """The generation is in the name: two generations that share one confuse path building."""
    text = f"Trove {trust_domain} {KIND_NAMES[kind]} g{generation}"
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    public_key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    start: dt.datetime,
    end: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .subject_name(subject)
        .issuer_name(issuer)
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _end(
    issuer: x509.Certificate, now: dt.datetime, lifetime: dt.timedelta, margin: dt.timedelta
) -> dt.datetime:
    """The end of a leaf's life; raises ConflictError when its issuer is too near its own."""
    end = min(now + lifetime, issuer.not_valid_after_utc - margin)
    if end <= now:
        raise ConflictError(
            f"{issuer.subject.rfc4514_string()} ends at {issuer.not_valid_after_utc:%FT%TZ}: "
            "too soon to sign with; rotate this authority",
            reason="AUTHORITY_ENDING",
        )
    return end


def _stored_key_id(issuer: x509.Certificate) -> x509.SubjectKeyIdentifier:
    return issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value


def _authority_key_id(key_id: x509.SubjectKeyIdentifier) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier(key_id.digest, None, None)
