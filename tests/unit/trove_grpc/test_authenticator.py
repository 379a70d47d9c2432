"""What a connection's properties make of its peer, at a time and under a bundle of our choice."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest

from tests.fakes.certificates import TestAuthority
from trove_grpc.errors import UnauthenticatedError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import Role
from trove_grpc.interceptors import Authenticator

AUTHORITY = TestAuthority()


class Peer:
    """A call's context, as far as identity goes."""

    def __init__(self, chain_pem: bytes | None, *, tls: bytes = b"TLSv1.3") -> None:
        self._properties = {"transport_security_type": [b"ssl"], "ssl_tls_version": [tls]}
        if chain_pem is not None:
            self._properties["x509_pem_cert"] = [chain_pem]

    def auth_context(self):
        return self._properties


@pytest.fixture
def material(tmp_path):
    return AUTHORITY.identity_for_guest("tenant", str(uuid.uuid4()), tmp_path).load()


def reason(authenticator: Authenticator, peer: Peer) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        authenticator.identify(peer)
    return caught.value.reason


def test_the_peer_is_who_its_certificate_says(material):
    assert Authenticator(AUTHORITY.bundle).identify(Peer(material.chain_pem)).role is Role.GUEST


def test_without_a_certificate_the_peer_is_anonymous():
    assert Authenticator(AUTHORITY.bundle).identify(Peer(None)).role is Role.ANONYMOUS


@pytest.mark.parametrize("version", [b"TLSv1.2", b"TLSv1", b""])
def test_older_tls_is_refused(material, version):
    peer = Peer(material.chain_pem, tls=version)
    assert reason(Authenticator(AUTHORITY.bundle), peer) == "TLS_VERSION"


def test_a_certificate_that_was_good_is_refused_when_it_has_expired(material):
    now = [material.leaf.not_valid_before_utc]
    authenticator = Authenticator(AUTHORITY.bundle, now=lambda: now[0])
    authenticator.identify(Peer(material.chain_pem))
    now[0] = material.leaf.not_valid_after_utc + dt.timedelta(seconds=1)
    assert reason(authenticator, Peer(material.chain_pem)) == "CERTIFICATE_EXPIRED"


def test_a_certificate_that_was_good_is_judged_anew_under_a_newer_bundle(material):
    bundle = AUTHORITY.bundle()
    authenticator = Authenticator(lambda: bundle)
    authenticator.identify(Peer(material.chain_pem))
    bundle = trust_pb2.TrustBundle(
        trust_domain=bundle.trust_domain,
        version=bundle.version + 1,
        authorities=[
            each for each in bundle.authorities if each.kind != trust_pb2.AUTHORITY_KIND_GUEST
        ],
    )
    assert reason(authenticator, Peer(material.chain_pem)) == "BAD_PROFILE"
