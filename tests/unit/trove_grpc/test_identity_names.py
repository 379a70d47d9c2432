"""Only exact SPIFFE IDs of our trust domain are identities."""

from __future__ import annotations

import pytest

from trove_grpc.errors import UnauthenticatedError
from trove_grpc.identity import Role, guest_uri, operator_uri, parse_uri, service_uri

DOMAIN = "test.trove"
INSTANCE = "11111111-2222-3333-4444-555555555555"
GUEST = guest_uri(DOMAIN, "tenant-a", INSTANCE)


@pytest.mark.parametrize(
    "uri",
    [
        GUEST,
        service_uri(DOMAIN, Role.CONDUCTOR, "host-1"),
        operator_uri(DOMAIN, "ada"),
    ],
)
def test_an_identity_reads_back_as_it_was_written(uri):
    assert parse_uri(uri, DOMAIN).uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        f"{GUEST}/",
        f"{GUEST}\n",
        f"{GUEST}\x00/x",
        f"{GUEST}?a=b",
        f"{GUEST}#x",
        GUEST.replace("spiffe", "SPIFFE"),
        GUEST.replace(DOMAIN, DOMAIN.upper()),
        GUEST.replace(DOMAIN, f"{DOMAIN}:443"),
        GUEST.replace(DOMAIN, f"user@{DOMAIN}"),
        GUEST.replace(DOMAIN, "other.trove"),
        GUEST.replace("tenant-a", "%74enant-a"),
        GUEST.replace("tenant-a", ".."),
        GUEST.replace("tenant-a", ""),
        GUEST.replace("tenant-a", "tenant-\uff41"),
        GUEST.replace("/tenant/", "//tenant/"),
        GUEST.replace(INSTANCE, INSTANCE.upper().replace("1", "A")),
        GUEST.replace(INSTANCE, "x" * 4096),
        f"spiffe://{DOMAIN}/service/root/host",
        f"spiffe://{DOMAIN}/service/conductor",
        f"spiffe://{DOMAIN}/operator/",
        "",
    ],
)
def test_anything_else_is_refused(uri):
    with pytest.raises(UnauthenticatedError) as caught:
        parse_uri(uri, DOMAIN)
    assert caught.value.reason == "BAD_IDENTITY"
