"""What every custody does, as tests: a suite inherits them and says in `custody` whose."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pki import profiles
from pki.custody import Custody, CustodyError
from pki.requests import new_key
from trove_grpc.errors import ConflictError, NotFoundError
from trove_grpc.gen.common.v1 import trust_pb2


def certificate_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    builder = profiles.root(
        trust_pb2.AUTHORITY_KIND_ROOT,
        key.public_key(),
        trust_domain="local.trove",
        generation=1,
        lifetime=dt.timedelta(days=1),
        now=dt.datetime.now(dt.UTC),
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class CustodyContract:
    def test_probe_finds_a_prepared_custody_well(self, custody: Custody) -> None:
        custody.prepare()
        custody.probe()
        assert custody.location

    def test_stored_key_is_loaded_again(self, custody: Custody) -> None:
        key = new_key()
        custody.store("guest-g1", key)
        assert custody.exists("guest-g1")
        assert custody.load("guest-g1").private_numbers() == key.private_numbers()

    def test_absent_key_is_not_found(self, custody: Custody) -> None:
        assert not custody.exists("guest-g1")
        with pytest.raises(NotFoundError) as refused:
            custody.load("guest-g1")
        assert refused.value.reason == "KEY_MISSING"

    def test_key_is_never_replaced(self, custody: Custody) -> None:
        key = new_key()
        custody.store("guest-g1", key)
        with pytest.raises(ConflictError):
            custody.store("guest-g1", new_key())
        assert custody.load("guest-g1").private_numbers() == key.private_numbers()

    def test_same_key_is_stored_again_without_harm(self, custody: Custody) -> None:
        key = new_key()
        custody.store("guest-g1", key)
        custody.store("guest-g1", key)
        assert custody.names() == ["guest-g1"]

    def test_names_are_those_of_the_keys(self, custody: Custody) -> None:
        assert custody.names() == []
        key = new_key()
        for name in ("service-g2", "guest-g1", "guest-g12"):
            custody.store(name, key)
        custody.store_certificate("operator-g1", certificate_pem(key))
        assert custody.names() == ["guest-g1", "guest-g12", "service-g2"]

    def test_certificate_is_kept_beside_its_key(self, custody: Custody) -> None:
        key = new_key()
        custody.store("root-g1", key)
        pem = certificate_pem(key)
        custody.store_certificate("root-g1", pem)
        custody.store_certificate("root-g1", pem)
        assert custody.load_certificate("root-g1") == pem

    def test_certificate_is_never_replaced(self, custody: Custody) -> None:
        pem = certificate_pem(new_key())
        custody.store_certificate("root-g1", pem)
        with pytest.raises(ConflictError):
            custody.store_certificate("root-g1", certificate_pem(new_key()))
        assert custody.load_certificate("root-g1") == pem

    def test_absent_certificate_is_not_found(self, custody: Custody) -> None:
        custody.store("root-g1", new_key())
        with pytest.raises(NotFoundError) as refused:
            custody.load_certificate("root-g1")
        assert refused.value.reason == "CERTIFICATE_MISSING"

    def test_deleted_key_is_gone_and_its_certificate_stays(self, custody: Custody) -> None:
        key = new_key()
        custody.store("guest-g1", key)
        custody.store("guest-g2", key)
        pem = certificate_pem(key)
        custody.store_certificate("guest-g1", pem)
        custody.delete("guest-g1")
        custody.delete("guest-g1")
        assert not custody.exists("guest-g1")
        assert custody.names() == ["guest-g2"]
        assert custody.load_certificate("guest-g1") == pem

    @pytest.mark.parametrize("name", ["../x", "guest", "guest-g1/../../x", "", "guest-g1\n"])
    def test_name_that_leads_elsewhere_is_refused(self, custody: Custody, name: str) -> None:
        for verb in (custody.load, custody.exists, custody.delete, custody.load_certificate):
            with pytest.raises(CustodyError):
                verb(name)
        with pytest.raises(CustodyError):
            custody.store(name, new_key())
