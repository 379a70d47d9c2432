"""Whom `identify_peer` takes for a service of another region, and whom for nobody."""

from __future__ import annotations

import uuid

import pytest
from cryptography import x509

from tests.fakes.certificates import TestAuthority
from tests.fakes.forge import CLIENT, SERVER, Forge, Leaf, uri
from trove_grpc.authorization import CALLERS, FEDERATED, authorize
from trove_grpc.errors import PermissionDeniedError, UnauthenticatedError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import SERVICE_ROLES, Role, identify, identify_peer
from trove_grpc.tls import KeyMaterial

OURS = TestAuthority("a.trove")
THEIRS = TestAuthority("b.trove")
THIRD = TestAuthority("c.trove")
ROOT = trust_pb2.AUTHORITY_KIND_ROOT
SERVICE = trust_pb2.AUTHORITY_KIND_SERVICE
GUEST = trust_pb2.AUTHORITY_KIND_GUEST
OPERATOR = trust_pb2.AUTHORITY_KIND_OPERATOR


def federated(*regions: TestAuthority) -> trust_pb2.TrustBundle:
    bundle = OURS.bundle()
    for region in regions:
        bundle.federated.add(
            trust_domain=region.trust_domain, sequence=1, root_pems=[region.signers[ROOT].pem]
        )
    return bundle


BUNDLE = federated(THEIRS, THIRD)
FORGE = Forge(THEIRS.signers, THEIRS.bundle())


def service(path: str = "b.trove/service/gateway/h", signed_by: int = SERVICE) -> Leaf:
    return FORGE.guest("t", str(uuid.uuid4())).with_(
        names=(uri(f"spiffe://{path}"), x509.DNSName("gateway.b.trove")),
        purposes=(SERVER, CLIENT),
        signed_by=signed_by,
    )


def client(path: str, signed_by: int) -> Leaf:
    return service(path, signed_by).with_(names=(uri(f"spiffe://{path}"),), purposes=(CLIENT,))


def refusal(material: KeyMaterial, bundle: trust_pb2.TrustBundle = BUNDLE) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        identify_peer(material.chain_pem, material.chain_pem, bundle)
    return caught.value.reason


@pytest.mark.parametrize("role", sorted(SERVICE_ROLES))
def test_a_service_of_another_region_is_federated_whatever_it_is_there(role):
    material = FORGE.sign(service(f"b.trove/service/{role}/h"))
    named = identify_peer(material.chain_pem, material.chain_pem, BUNDLE)
    assert (named.role, named.trust_domain) == (Role.FEDERATED, "b.trove")
    assert named.uri == f"spiffe://b.trove/service/{role}/h"
    assert named.not_valid_after == material.leaf.not_valid_after_utc


@pytest.mark.parametrize(
    "leaf",
    [
        client(f"b.trove/tenant/t/instance/{uuid.uuid4()}", GUEST),
        client("b.trove/operator/ada", OPERATOR),
        client("b.trove/breakglass/inc-7", OPERATOR),
    ],
    ids=["guest", "operator", "breakglass"],
)
def test_nobody_else_of_another_region_is_anybody(leaf):
    assert refusal(FORGE.sign(leaf)) == "BAD_IDENTITY"


@pytest.mark.parametrize("kind", [GUEST, OPERATOR, ROOT], ids=["guest", "operator", "root"])
def test_only_their_authority_for_services_signs_services(kind):
    assert refusal(FORGE.sign(service(signed_by=kind))) == "BAD_PROFILE"


@pytest.mark.parametrize(
    "leaf",
    [
        service("a.trove/service/gateway/h"),
        client(f"a.trove/tenant/t/instance/{uuid.uuid4()}", GUEST),
        client("a.trove/operator/ada", OPERATOR),
    ],
    ids=["service", "guest", "operator"],
)
def test_a_path_of_ours_below_their_root_is_nobody(leaf):
    assert refusal(FORGE.sign(leaf)) == "BAD_PROFILE"


def test_a_path_of_a_third_region_below_their_root_is_nobody():
    assert refusal(FORGE.sign(service("c.trove/service/gateway/h"))) == "BAD_PROFILE"


def test_a_path_of_theirs_below_our_own_authority_is_nobody():
    signer = OURS.signers[SERVICE]
    assert refusal(FORGE.sign(service(), signer=signer)) == "BAD_PROFILE"


def test_a_bundle_that_federates_our_own_domain_changes_nothing():
    bundle = federated()
    bundle.federated.add(trust_domain="a.trove", root_pems=[THEIRS.signers[ROOT].pem])
    assert refusal(FORGE.sign(service("a.trove/service/gateway/h")), bundle) == "BAD_PROFILE"


def test_without_their_root_they_are_nobody():
    assert refusal(FORGE.sign(service()), federated(THIRD)) == "BAD_IDENTITY"


def test_their_chain_must_be_shown_and_be_theirs():
    leaf = FORGE.sign(service()).chain_pem
    posing = TestAuthority("b.trove").signers[SERVICE].pem
    for chain in (b"", b"\x00", THEIRS.signers[ROOT].pem, posing, leaf * 40):
        with pytest.raises(UnauthenticatedError) as caught:
            identify_peer(leaf, chain, BUNDLE)
        assert caught.value.reason == "BAD_PROFILE"


def test_where_certificates_of_guests_are_judged_no_other_region_exists():
    material = FORGE.sign(service())
    with pytest.raises(UnauthenticatedError) as caught:
        identify(material.chain_pem, BUNDLE)
    assert caught.value.reason == "BAD_IDENTITY"


@pytest.mark.parametrize("role", sorted(SERVICE_ROLES))
def test_a_federated_service_may_call_what_its_table_says_and_nothing_else(role):
    material = FORGE.sign(service(f"b.trove/service/{role}/h"))
    named = identify_peer(material.chain_pem, material.chain_pem, BUNDLE)
    assert {
        "/trove.issuer.v1.IssuerService/GetTrustBundle",
        "/grpc.health.v1.Health/Check",
    } == FEDERATED
    for method in (*CALLERS, "/no.such/Method"):
        if method in FEDERATED:
            authorize(named, method)
        else:
            with pytest.raises(PermissionDeniedError):
                authorize(named, method)
