"""Tokens of a real Keystone: the contract, and two projects that see nothing of each other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path

import openstack as sdk
import pytest

from gateway.rest.auth.settings import KeystoneSettings
from tests.fakes.keystone import write_private
from tests.fakes.keystone_contract import KeystoneContract
from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_server import running_rest
from tests.openstack.conftest import write_credential
from tests.openstack.harness.cloud import Cloud
from tests.openstack.harness.identity import REGION

_serial = itertools.count(1)
INSTANCE = {
    "instance": {
        "name": "i1",
        "flavorRef": "1",
        "volume": {"size": 1},
        "datastore": {"type": "postgresql", "version": "15"},
    }
}


class RealKeystone:
    """What the contract asks for, by the administrator's API."""

    ca_file = None  # on the loopback without TLS

    def __init__(self, cloud: Cloud, root: Path) -> None:
        self.root = root
        self._cloud = cloud
        self._identity = cloud.identity
        self.auth_url = cloud.keystone.auth_url

    def issue(self, user: str, project: str | None, roles: Sequence[str] = ("member",)) -> str:
        secret = self._cloud.state.secret(user)
        home = project or "alpha"
        self._identity.ensure_user(user, secret, project=home, roles=roles)
        return self._identity.issue_token(user, secret, project=project)

    def revoke(self, token: str) -> None:
        self._identity.revoke_token(token)

    def credential(self, user: str, *roles: str) -> Path:
        secret = self._cloud.state.secret(user)
        self._identity.ensure_user(user, secret, project="service", roles=roles)
        made = self._identity.create_application_credential(
            f"{user}-{next(_serial)}", user=user, password=secret, project="service", roles=roles
        )
        return write_credential(self.root / f"{user}.json", made)

    def password(self, user: str, *roles: str) -> Path:
        secret = self._cloud.state.secret(user)
        self._identity.ensure_user(user, secret, project="service", roles=roles)
        content = {"username": user, "password": secret, "project": "service"}
        return write_private(self.root / f"{user}-password.json", content)

    def project_id(self, name: str) -> str:
        return self._identity.ensure_project(name)


@pytest.fixture
def keystone(openstack: Cloud, private_directory: Path) -> RealKeystone:
    return RealKeystone(openstack, private_directory)


class TestRealKeystone(KeystoneContract):
    @pytest.fixture
    def project_id(self, keystone):
        return keystone.project_id("alpha")


@pytest.fixture
async def alpha(keystone):
    """The API as project alpha's client, without a token so far."""
    table = KeystoneSettings(
        auth_url=keystone.auth_url,
        credential_file=keystone.credential("trove", "service"),
    )
    async with running_rest(FakeControlPlane(), auth="keystone", keystone=table) as client:
        yield client.for_project(keystone.project_id("alpha"))


def by(token: str) -> dict[str, str]:
    return {"X-Auth-Token": token}


async def test_alice_of_alpha_reaches_nothing_of_beta(alpha, keystone):
    beta = alpha.for_project(keystone.project_id("beta"))
    alice, bob = keystone.issue("alice", "alpha"), keystone.issue("bob", "beta")
    created = await beta.send("POST", "/instances", INSTANCE, headers=by(bob))
    assert created.status == 200, created.text
    path = f"/instances/{created.json['instance']['id']}"

    for method in ("GET", "DELETE"):
        assert (await beta.send(method, path, headers=by(alice))).status == 403
        assert (await alpha.send(method, path, headers=by(alice))).status == 404
    listed = await alpha.send("GET", "/instances", headers=by(alice))
    assert listed.json["instances"] == []
    assert (await beta.send("GET", path, headers=by(bob))).status == 200


async def test_strangers_are_told_where_to_get_a_token(alpha, keystone):
    for headers in ({}, by("canary-token"), by(keystone.issue("alice", "alpha") + "x")):
        answer = await alpha.send("GET", "/instances", headers=headers)

        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{keystone.auth_url}"'
        assert "canary" not in answer.text


async def test_token_without_the_projects_scope_is_refused(alpha, keystone):
    answer = await alpha.send("GET", "/instances", headers=by(keystone.issue("alice", None)))

    assert answer.status == 403


async def test_administrator_is_one_by_his_role(alpha, keystone):
    root = keystone.issue("chief", "alpha", ["admin"])
    alice = keystone.issue("alice", "alpha")

    refused = await alpha.send("GET", "/mgmt/instances", headers=by(alice))
    assert (refused.status, refused.message) == (401, "User does not have admin privileges.")
    allowed = await alpha.send("GET", "/mgmt/instances", headers=by(root))
    assert allowed.status not in (401, 403)


# What the SDK warns of are its own arguments.
@pytest.mark.filterwarnings(
    "ignore::openstack.warnings.RemovedInSDK50Warning",
    "ignore::openstack.warnings.RemovedInSDK60Warning",
)
async def test_sdk_finds_the_api_in_the_catalogue_and_is_let_in(alpha, keystone, openstack):
    bob_secret = openstack.state.secret("bob")
    openstack.identity.ensure_user("bob", bob_secret, project="alpha", roles=["member"])
    openstack.identity.ensure_endpoint("database", f"{alpha.root}/v1.0/%(project_id)s")
    token = keystone.issue("bob", "alpha")
    created = await alpha.send("POST", "/instances", INSTANCE, headers=by(token))

    def names() -> list[str]:
        with sdk.connect(
            auth_url=keystone.auth_url,
            username="bob",
            password=bob_secret,
            project_name="alpha",
            user_domain_name="Default",
            project_domain_name="Default",
            region_name=REGION,
        ) as connection:
            return [instance.name for instance in connection.database.instances()]

    assert created.status == 200
    assert await asyncio.to_thread(names) == ["i1"]
