"""Every profile, field by field, and both TLS stacks' view of them."""

from __future__ import annotations

import datetime as dt
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from pki import profiles
from pki.requests import new_key
from tests.fakes.certificates import TestAuthority
from trove_grpc.errors import ConflictError
from trove_grpc.gen.common.v1 import trust_pb2 as trust
from trove_grpc.identity import Role

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
DAY = dt.timedelta(days=1)
INSTANCE = "11111111-2222-3333-4444-555555555555"
AUTHORITY = TestAuthority()


def extension(certificate: x509.Certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def guest(lifetime: dt.timedelta = DAY) -> x509.Certificate:
    signer = AUTHORITY.signers[trust.AUTHORITY_KIND_GUEST]
    return signer.sign(
        profiles.guest(
            new_key().public_key(),
            signer.certificate,
            trust_domain="local.trove",
            tenant_id="t",
            instance_id=INSTANCE,
            lifetime=lifetime,
            now=NOW,
        )
    )


def service() -> x509.Certificate:
    signer = AUTHORITY.signers[trust.AUTHORITY_KIND_SERVICE]
    return signer.sign(
        profiles.service(
            new_key().public_key(),
            signer.certificate,
            trust_domain="local.trove",
            role=Role.GATEWAY,
            host="gw-1",
            lifetime=DAY,
            now=NOW,
        )
    )


def operator() -> x509.Certificate:
    signer = AUTHORITY.signers[trust.AUTHORITY_KIND_OPERATOR]
    return signer.sign(
        profiles.operator(
            new_key().public_key(),
            signer.certificate,
            trust_domain="local.trove",
            name="ann",
            lifetime=DAY,
            now=NOW,
        )
    )


def engine() -> x509.Certificate:
    signer = AUTHORITY.signers[trust.AUTHORITY_KIND_DATABASE]
    return signer.sign(
        profiles.engine(
            new_key().public_key(),
            signer.certificate,
            dns_names=["i.db.local.trove"],
            ip_addresses=["127.0.0.9", "::1"],
            lifetime=DAY,
            now=NOW,
        )
    )


LEAVES = [guest, service, operator, engine]


@pytest.mark.parametrize("make", LEAVES)
def test_leaf_has_an_empty_subject_and_a_critical_name(make) -> None:
    certificate = make()
    assert list(certificate.subject) == []
    assert extension(certificate, x509.SubjectAlternativeName).critical


@pytest.mark.parametrize("make", LEAVES)
def test_leaf_may_sign_nothing(make) -> None:
    certificate = make()
    constraints = extension(certificate, x509.BasicConstraints)
    usage = extension(certificate, x509.KeyUsage)
    assert constraints.critical
    assert not constraints.value.ca
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign


@pytest.mark.parametrize(
    ("make", "purposes"),
    [
        (guest, profiles.CLIENT),
        (operator, profiles.CLIENT),
        (service, profiles.BOTH),
        (engine, profiles.SERVER),
    ],
)
def test_leaf_has_exactly_its_purposes(make, purposes) -> None:
    assert tuple(extension(make(), x509.ExtendedKeyUsage).value) == purposes


def test_guest_and_operator_have_exactly_one_name() -> None:
    for certificate, uri in (
        (guest(), f"spiffe://local.trove/tenant/t/instance/{INSTANCE}"),
        (operator(), "spiffe://local.trove/operator/ann"),
    ):
        names = extension(certificate, x509.SubjectAlternativeName).value
        assert list(names) == [x509.UniformResourceIdentifier(uri)]


def test_service_has_its_identity_and_the_name_channels_verify() -> None:
    assert list(extension(service(), x509.SubjectAlternativeName).value) == [
        x509.UniformResourceIdentifier("spiffe://local.trove/service/gateway/gw-1"),
        x509.DNSName("gateway.local.trove"),
    ]


def test_engine_has_addresses_and_no_identity_of_ours() -> None:
    names = extension(engine(), x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == []
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.9"),
        ipaddress.ip_address("::1"),
    ]


@pytest.mark.parametrize("make", LEAVES)
def test_authority_key_id_is_the_issuers_stored_one(make) -> None:
    certificate = make()
    key_id = extension(certificate, x509.AuthorityKeyIdentifier).value.key_identifier
    issuers = [
        signer.certificate
        for signer in AUTHORITY.signers.values()
        if signer.certificate.subject == certificate.issuer
    ]
    assert [extension(each, x509.SubjectKeyIdentifier).value.digest for each in issuers] == [
        key_id
    ]


def test_leaf_ends_a_margin_before_its_issuer() -> None:
    issuer = AUTHORITY.signers[trust.AUTHORITY_KIND_GUEST].certificate
    ends = guest(lifetime=4000 * DAY).not_valid_after_utc
    assert ends == issuer.not_valid_after_utc - profiles.ISSUER_MARGIN


def test_authority_near_its_end_signs_nothing() -> None:
    signer = AUTHORITY.signers[trust.AUTHORITY_KIND_GUEST]
    with pytest.raises(ConflictError) as refused:
        profiles.guest(
            new_key().public_key(),
            signer.certificate,
            trust_domain="local.trove",
            tenant_id="t",
            instance_id=INSTANCE,
            lifetime=DAY,
            now=signer.certificate.not_valid_after_utc - profiles.ISSUER_MARGIN,
        )
    assert refused.value.reason == "AUTHORITY_ENDING"


@pytest.mark.parametrize(
    ("kind", "purposes"),
    [
        (trust.AUTHORITY_KIND_GUEST, profiles.CLIENT),
        (trust.AUTHORITY_KIND_OPERATOR, profiles.CLIENT),
        (trust.AUTHORITY_KIND_SERVICE, profiles.BOTH),
        (trust.AUTHORITY_KIND_DATABASE, profiles.SERVER),
    ],
)
def test_intermediate_is_bound_to_leaves_of_its_purpose(kind, purposes) -> None:
    certificate = AUTHORITY.signers[kind].certificate
    constraints = extension(certificate, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert tuple(extension(certificate, x509.ExtendedKeyUsage).value) == purposes


def test_two_generations_of_an_authority_never_share_a_name() -> None:
    names = {
        profiles.authority_name(kind, "local.trove", generation)
        for kind in profiles.PARENTS
        for generation in (1, 2)
    }
    assert len(names) == 12


def test_longest_trust_domain_still_fits_a_common_name() -> None:
    longest = "a" * profiles.MAX_TRUST_DOMAIN
    for kind in profiles.PARENTS:
        profiles.authority_name(kind, longest, 9999)


@pytest.mark.parametrize(
    ("make", "kind", "root"),
    [
        (guest, trust.AUTHORITY_KIND_GUEST, trust.AUTHORITY_KIND_ROOT),
        (service, trust.AUTHORITY_KIND_SERVICE, trust.AUTHORITY_KIND_ROOT),
        (operator, trust.AUTHORITY_KIND_OPERATOR, trust.AUTHORITY_KIND_ROOT),
    ],
)
def test_chain_of_a_client_verifies(make, kind, root) -> None:
    store = verification.Store([AUTHORITY.signers[root].certificate])
    verifier = verification.PolicyBuilder().store(store).time(NOW).build_client_verifier()
    verified = verifier.verify(make(), [AUTHORITY.signers[kind].certificate])
    assert len(verified.chain) == 3


@pytest.mark.parametrize("address", ["127.0.0.9", "i.db.local.trove"])
def test_chain_of_an_engine_verifies_for_its_addresses_and_its_own_root_alone(address) -> None:
    subject = (
        x509.DNSName(address)
        if address.endswith("trove")
        else x509.IPAddress(ipaddress.ip_address(address))
    )
    chain = [AUTHORITY.signers[trust.AUTHORITY_KIND_DATABASE].certificate]

    def verify(root) -> None:
        store = verification.Store([AUTHORITY.signers[root].certificate])
        policy = verification.PolicyBuilder().store(store).time(NOW)
        policy.build_server_verifier(subject).verify(engine(), chain)

    verify(trust.AUTHORITY_KIND_DATABASE_ROOT)
    with pytest.raises(verification.VerificationError):
        verify(trust.AUTHORITY_KIND_ROOT)


def test_keys_are_p256() -> None:
    assert isinstance(new_key().curve, ec.SECP256R1)
