"""When our own certificate is replaced: by age, and when its authority no longer signs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.certificates import TestAuthority
from trove_grpc.gen.common.v1 import trust_pb2
from trovectl.identities import is_of_active_generation, signing_generation


@pytest.fixture
def chain(tmp_path: Path) -> tuple[bytes, trust_pb2.TrustBundle]:
    pki = TestAuthority()
    identity = pki.identity_for_operator("trovectl", tmp_path)
    return identity.load().chain_pem, pki.bundle()


def operators(bundle: trust_pb2.TrustBundle) -> trust_pb2.AuthorityCertificate:
    (found,) = (
        each for each in bundle.authorities if each.kind == trust_pb2.AUTHORITY_KIND_OPERATOR
    )
    return found


def test_a_certificate_of_the_signing_generation_is_kept(chain):
    assert is_of_active_generation(*chain)


def test_one_of_a_draining_generation_is_replaced(chain):
    leaf, bundle = chain
    old = operators(bundle)
    old.state = trust_pb2.AUTHORITY_STATE_DRAINING
    bundle.authorities.add(
        kind=old.kind,
        generation=old.generation + 1,
        state=trust_pb2.AUTHORITY_STATE_ACTIVE,
        certificate_pem=TestAuthority().bundle().authorities[0].certificate_pem,
    )
    assert not is_of_active_generation(leaf, bundle)


def test_one_whose_authority_has_left_the_bundle_is_replaced(chain):
    leaf, bundle = chain
    bundle.authorities.remove(operators(bundle))
    assert not is_of_active_generation(leaf, bundle)


def test_what_signed_a_leaf_is_known_while_it_is_trusted(chain):
    leaf, bundle = chain
    assert signing_generation(leaf, bundle) == 1
    bundle.authorities.remove(operators(bundle))
    assert signing_generation(leaf, bundle) is None
