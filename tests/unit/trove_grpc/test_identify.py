"""What `identify` demands of a certificate, one condition at a time, without a connection."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest
from cryptography import x509

from tests.fakes.certificates import TestAuthority
from tests.fakes.forge import CLIENT, CODE, SERVER, Forge, address_name, uri
from trove_grpc.errors import UnauthenticatedError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import Role, check_validity, identify, key_hash, serial_hex
from trove_grpc.tls import anchors

MOMENT = dt.timedelta(microseconds=1)
INSTANCE = str(uuid.uuid4())
AUTHORITY = TestAuthority()
FORGE = Forge(AUTHORITY.signers, AUTHORITY.bundle())
GOOD = FORGE.guest("tenant", INSTANCE)
SERVICE = GOOD.with_(
    names=(
        uri("spiffe://local.trove/service/conductor/local"),
        x509.DNSName("conductor.local.trove"),
    ),
    purposes=(SERVER, CLIENT),
    signed_by=trust_pb2.AUTHORITY_KIND_SERVICE,
)
OPERATOR = GOOD.with_(
    names=(uri("spiffe://local.trove/operator/ada"),), signed_by=trust_pb2.AUTHORITY_KIND_OPERATOR
)

SPOILED = {
    "no names": GOOD.with_(names=()),
    "two URI names": GOOD.with_(names=GOOD.names * 2),
    "no URI name": GOOD.with_(names=(x509.DNSName("a.example"),)),
    "a DNS name in a guest's": GOOD.with_(names=(*GOOD.names, x509.DNSName("a.example"))),
    "a DNS name in an operator's": OPERATOR.with_(
        names=(*OPERATOR.names, x509.DNSName("a.example"))
    ),
    "an address": SERVICE.with_(names=(*SERVICE.names, address_name("192.0.2.1"))),
    "an authority": GOOD.with_(is_authority=True),
    "no basic constraints": GOOD.with_(without=(x509.BasicConstraints,)),
    "no key usage": GOOD.with_(without=(x509.KeyUsage,)),
    "signs nothing": GOOD.with_(signs_nothing=True),
    "signs certificates": GOOD.with_(usage=("key_cert_sign",)),
    "signs revocation lists": GOOD.with_(usage=("crl_sign",)),
    "no extended key usage": GOOD.with_(purposes=None),
    "a guest that serves": GOOD.with_(purposes=(CLIENT, SERVER)),
    "a guest that serves only": GOOD.with_(purposes=(SERVER,)),
    "a guest that signs code": GOOD.with_(purposes=(CLIENT, CODE)),
    "an operator that serves": OPERATOR.with_(purposes=(CLIENT, SERVER)),
    "a service that only dials": SERVICE.with_(purposes=(CLIENT,)),
    "an RSA key": GOOD.with_(key="RSA-2048"),
    "a P-384 key": GOOD.with_(key="P-384"),
    "an Ed25519 key": GOOD.with_(key="Ed25519"),
    "no authority key identifier": GOOD.with_(has_authority_key_id=False),
    "a guest below the services' authority": GOOD.with_(
        signed_by=trust_pb2.AUTHORITY_KIND_SERVICE
    ),
    "a guest below the operators' authority": GOOD.with_(
        signed_by=trust_pb2.AUTHORITY_KIND_OPERATOR
    ),
    "a guest below the root": GOOD.with_(signed_by=trust_pb2.AUTHORITY_KIND_ROOT),
    "a service below the guests' authority": SERVICE.with_(
        signed_by=trust_pb2.AUTHORITY_KIND_GUEST
    ),
    "an operator below the guests' authority": OPERATOR.with_(
        signed_by=trust_pb2.AUTHORITY_KIND_GUEST
    ),
}


def refusal(chain_pem: bytes) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        identify(chain_pem, FORGE.bundle)
    return caught.value.reason


@pytest.mark.parametrize(
    ("leaf", "role"),
    [(GOOD, Role.GUEST), (SERVICE, Role.CONDUCTOR), (OPERATOR, Role.OPERATOR)],
    ids=["guest", "service", "operator"],
)
def test_a_certificate_as_the_issuer_makes_it_is_an_identity(leaf, role):
    material = FORGE.sign(leaf)
    named = identify(material.chain_pem, FORGE.bundle)
    assert named.role is role
    assert named.serial == serial_hex(material.leaf)
    assert named.key_hash == key_hash(material.leaf.public_key())
    assert named.generation == 1
    assert named.not_valid_after == material.leaf.not_valid_after_utc


@pytest.mark.parametrize("leaf", SPOILED.values(), ids=SPOILED.keys())
def test_a_spoiled_certificate_is_none(leaf):
    assert refusal(FORGE.sign(leaf).chain_pem) == "BAD_PROFILE"


def test_a_certificate_of_another_trust_domain_is_none():
    other = GOOD.with_(names=(uri(f"spiffe://other.trove/tenant/t/instance/{INSTANCE}"),))
    assert refusal(FORGE.sign(other).chain_pem) == "BAD_IDENTITY"


@pytest.mark.parametrize("takes_name", [True, False])
def test_an_authority_that_poses_as_ours_makes_none(takes_name):
    """It has our authority's key identifier, and its name; what it has not is the key."""
    posing = FORGE.below_a_leaf(GOOD, is_authority=True, takes_key_id=True, takes_name=takes_name)
    assert refusal(posing.chain_pem) == "BAD_PROFILE"


def test_a_stranger_with_our_authoritys_key_identifier_makes_none():
    stranger = FORGE.foreign.signers[trust_pb2.AUTHORITY_KIND_GUEST]
    ours = FORGE.signers[trust_pb2.AUTHORITY_KIND_GUEST].certificate
    material = FORGE.sign(GOOD, signer=stranger, key_id_of=ours)
    assert refusal(material.chain_pem) == "BAD_PROFILE"


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\nAA==\n", b"\x00" * 64])
def test_what_is_no_certificate_is_none(pem):
    assert refusal(pem) == "BAD_PROFILE"


def test_an_identity_ends_at_its_certificates_end():
    named = identify(FORGE.sign(GOOD).chain_pem, FORGE.bundle)
    check_validity(named, named.not_valid_after - MOMENT)
    with pytest.raises(UnauthenticatedError) as caught:
        check_validity(named, named.not_valid_after)
    assert caught.value.reason == "CERTIFICATE_EXPIRED"


@pytest.mark.parametrize("state", trust_pb2.AuthorityState.values())
def test_only_authorities_that_are_trusted_now_are_anchors(state):
    bundle = AUTHORITY.bundle()
    for authority in bundle.authorities:
        authority.state = state
    trusted = {
        trust_pb2.AUTHORITY_STATE_TRUSTED,
        trust_pb2.AUTHORITY_STATE_ACTIVE,
        trust_pb2.AUTHORITY_STATE_DRAINING,
    }
    found = anchors(bundle, {trust_pb2.AUTHORITY_KIND_GUEST})
    assert bool(found) is (state in trusted)
