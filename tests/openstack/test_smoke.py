"""The short half, for every run: a key's whole life in the real Barbican, and Barbican away.

`make test-openstack` runs the long half: the files here without `test_` in their names.
"""

from __future__ import annotations

import pytest

from pki.requests import new_key
from tests.openstack.conftest import Place
from trove_grpc.errors import UnavailableError


def test_key_lives_in_barbican_sealed_and_private(place: Place) -> None:
    key = new_key()
    custody = place.custody()
    custody.store("guest-g1", key)
    assert place.custody().load("guest-g1").private_numbers() == key.private_numbers()

    (ref,) = place.secrets()
    client = place.client()
    secret = client.secrets.get(ref)
    assert secret.name == place.path("guest-g1")
    assert secret.expiration is None
    assert b"trove-ca-key/1" in secret.payload
    read = client.acls.get(ref).read
    assert (read.project_access, read.users) == (False, [client.client.get_user_id()])
    (consumer,) = client.secrets.list_consumers(ref)
    assert (consumer.service, consumer.resource_id) == ("trove-pki", "guest-g1")

    custody.delete("guest-g1")
    assert place.secrets() == {}


def test_barbican_away_is_said_and_nothing_is_made_in_its_place(place: Place) -> None:
    key = new_key()
    place.custody().store("guest-g1", key)
    place.cloud.barbican.stop()
    try:
        for verb in (place.custody().load, place.custody().exists):
            with pytest.raises(UnavailableError) as refused:
                verb("guest-g1")
            assert refused.value.reason == "CUSTODY_UNREACHABLE"
    finally:
        place.cloud.restart_barbican()
    assert place.custody().load("guest-g1").private_numbers() == key.private_numbers()
