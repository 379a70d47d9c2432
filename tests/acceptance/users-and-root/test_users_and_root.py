"""Users, databases, access and root of running engines, by REST and with the real client."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.acceptance.engine_clients import CLIENTS, DATABASE, PASSWORD, Client, Said
from tests.acceptance.installation import Installation, eventually, installation
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.tls import IdentityDirectory, anchors

ENGINES = ("mariadb", "postgresql")
WEIRD = "o'Neil@home %2e/\\"


class Tenant:
    """One instance, as its tenant reaches it: by REST and by its engine's client."""

    def __init__(self, plane: Installation, instance_id: str, client: Client, root: Path) -> None:
        self._plane, self._client, self._root = plane, client, root
        self.id = instance_id
        self.engine = client.datastore
        (self._host,) = plane.await_healthy(instance_id)["ip"]

    def rest(self, method: str, path: str, body: object = None) -> tuple[int, object]:
        return self._plane.request(method, f"/instances/{self.id}{path}", body)

    def must(self, method: str, path: str, body: object = None) -> object:
        status, answer = self.rest(method, path, body)
        assert status < 300, (method, path, status, answer, self._plane.logs())
        return answer

    def log_in(self, user: str, password: str, database: str, say: str = "SELECT 1") -> Said:
        """With full verification of the server."""
        return self._client.ask(
            self._host,
            say,
            self._root.parent,
            root=str(self._root),
            user=user,
            password=password,
            database=database,
        )


@pytest.fixture(scope="module")
def plane():
    with installation(api__guest_timeout="5") as made:
        yield made


@pytest.fixture(scope="module")
def tenants(plane, tmp_path_factory):
    bundle = IdentityDirectory(plane.state / "operator" / "identity").bundle()
    root = tmp_path_factory.mktemp("client") / "root.pem"
    root.write_bytes(anchors(bundle, {trust_pb2.AUTHORITY_KIND_DATABASE_ROOT}))
    ids = {engine: plane.create(f"of-{engine}", datastore=engine) for engine in ENGINES}
    return {engine: Tenant(plane, ids[engine], CLIENTS[engine], root) for engine in ENGINES}


@pytest.fixture(params=ENGINES)
def tenant(request, tenants) -> Tenant:
    return tenants[request.param]


def test_user_made_over_rest_logs_in_until_access_or_user_goes(tenant):
    tenant.must("POST", "/databases", {"databases": [{"name": "second"}]})
    assert tenant.rest("POST", "/databases", {"databases": [{"name": "second"}]})[0] == 400
    names = {"databases": [{"name": DATABASE}, {"name": "second"}]}
    assert tenant.must("GET", "/databases") == names
    users = [{"name": "bob", "password": "bobs-Pass", "databases": [{"name": "second"}]}]
    tenant.must("POST", "/users", {"users": users})
    assert tenant.log_in("bob", "bobs-Pass", "second", "CREATE TABLE t (a int)").is_in
    assert not tenant.log_in("bob", "guess", "second").is_in
    assert not tenant.log_in("bob", "bobs-Pass", DATABASE).is_in
    tenant.must("PUT", "/users/bob/databases", {"databases": [{"name": DATABASE}]})
    assert tenant.log_in("bob", "bobs-Pass", DATABASE).is_in
    tenant.must("DELETE", "/users/bob/databases/second")
    assert not tenant.log_in("bob", "bobs-Pass", "second").is_in
    tenant.must("PUT", "/users", {"users": [{"name": "bob", "password": "new-Pass"}]})
    assert not tenant.log_in("bob", "bobs-Pass", DATABASE).is_in
    assert tenant.log_in("bob", "new-Pass", DATABASE).is_in
    tenant.must("DELETE", "/users/bob")
    assert not tenant.log_in("bob", "new-Pass", DATABASE).is_in
    tenant.must("DELETE", "/databases/second")
    assert tenant.must("GET", "/databases") == {"databases": [{"name": DATABASE}]}


def test_weird_name_logs_in(tenant):
    user = {"name": WEIRD, "password": "its-Pass", "databases": [{"name": DATABASE}]}
    tenant.must("POST", "/users", {"users": [user]})
    path = f"/users/{quote(WEIRD, safe='')}"
    shown = tenant.must("GET", path)
    assert shown == {"user": {"name": WEIRD, "host": "%", "databases": [{"name": DATABASE}]}}
    if tenant.engine == "mariadb":  # psql's connection string has quotes of its own
        assert tenant.log_in(WEIRD, "its-Pass", DATABASE).is_in
    tenant.must("DELETE", path)


def test_root_is_let_in_and_kept_out(tenant):
    assert tenant.must("GET", "/root") == {"rootEnabled": False}
    password = tenant.must("POST", "/root")["user"]["password"]
    assert tenant.log_in("root", password, DATABASE, "CREATE DATABASE roots").is_in
    again = tenant.must("POST", "/root", {"password": "given-Pass"})
    assert again == {"user": {"name": "root", "password": "given-Pass"}}
    assert not tenant.log_in("root", password, DATABASE).is_in
    assert tenant.log_in("root", "given-Pass", DATABASE).is_in
    tenant.must("DELETE", "/root")
    assert not tenant.log_in("root", "given-Pass", DATABASE).is_in
    assert tenant.must("GET", "/root") == {"rootEnabled": False}
    assert tenant.rest("DELETE", "/root")[0] == 404
    tenant.must("DELETE", "/databases/roots")


def test_the_real_client_manages_users_and_root(plane, tenants):
    tenant = tenants["mariadb"]
    arguments = ("--databases", DATABASE)
    plane.openstack("user", "create", tenant.id, "eva.b", "evas-Pass", *arguments)
    assert tenant.log_in("eva.b", "evas-Pass", DATABASE).is_in
    listed = plane.openstack("user", "list", tenant.id, "-f", "json")
    assert {user["Name"] for user in listed} == {"ada", "eva.b"}
    access = plane.openstack("user", "show", "access", tenant.id, "eva.b", "-f", "json")
    assert [item["Name"] for item in access] == [DATABASE]
    plane.openstack("user", "revoke", "access", tenant.id, "eva.b", DATABASE)
    assert not tenant.log_in("eva.b", "evas-Pass", DATABASE).is_in
    plane.openstack("user", "delete", tenant.id, "eva.b")
    shown = plane.openstack("root", "show", tenant.id, "-f", "json")
    assert str(shown["is_root_enabled"]) == "False"


def test_killed_agent_is_said_to_be_away_and_nobody_else_notices(plane, tenants):
    victim, other = tenants["mariadb"], tenants["postgresql"]

    def agent_pid() -> int:
        (guest,) = (each for each in plane.status()["guests"] if each["instance"] == victim.id)
        return int(guest["agent_pid"] or 0)

    def is_said() -> object:
        os.kill(eventually(agent_pid, "an agent"), signal.SIGKILL)
        status, answer = victim.rest("GET", "/users")
        return status == 503 and answer

    answer = eventually(is_said, "503 while the agent is away")
    message = answer["serviceUnavailable"]["message"]
    assert "last heard of" in message
    assert other.rest("GET", "/users")[0] == 200
    assert victim.log_in("ada", PASSWORD, DATABASE).is_in  # the engine does not need its agent
    eventually(lambda: victim.rest("GET", "/users")[0] == 200, "the agent back")


def test_stopped_agent_costs_its_own_tenant_a_deadline_and_nobody_else(plane, tenants):
    victim, other = tenants["postgresql"], tenants["mariadb"]
    (guest,) = (each for each in plane.status()["guests"] if each["instance"] == victim.id)
    os.kill(guest["agent_pid"], signal.SIGSTOP)
    try:
        status, answer = victim.rest("POST", "/databases", {"databases": [{"name": "late"}]})
        assert status in (503, 504), answer
        assert "may have happened" in str(answer)
        assert other.rest("GET", "/databases")[0] == 200
    finally:
        os.kill(guest["agent_pid"], signal.SIGCONT)
    eventually(lambda: victim.rest("GET", "/users")[0] == 200, "the agent back")
