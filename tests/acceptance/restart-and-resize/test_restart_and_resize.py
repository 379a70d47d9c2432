"""A restart and a resize reach the real engine, and one it cannot bear is taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.engine_clients import CLIENTS, DATABASE, PASSWORD, USER, Client
from tests.acceptance.installation import Installation, eventually, installation
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.tls import IdentityDirectory, anchors
from trovectl import procfs

# The last has more memory than any machine: no engine starts with a share of it.
FLAVORS = (
    '[{id = "1", name = "db.tiny", ram_mib = 512}, {id = "2", name = "db.small", ram_mib = 1024}, '
    '{id = "9", name = "db.vast", ram_mib = 1073741824}]'
)
# By datastore: what shows the memory an engine runs with.
MEMORY = {
    "postgresql": "SELECT setting::bigint * 8192 FROM pg_settings WHERE name = 'shared_buffers'",
    "mariadb": "SELECT @@innodb_buffer_pool_size",
}
ENDED = ("SUCCEEDED", "FAILED", "STUCK")


@pytest.fixture(scope="module")
def plane():
    with installation(taskmanager__flavors=FLAVORS) as made:
        yield made


@pytest.fixture(scope="module")
def created(plane: Installation):
    ids = {}
    for datastore in MEMORY:
        user = {"name": USER, "password": PASSWORD, "databases": [{"name": DATABASE}]}
        status, body = plane.request(
            "POST",
            "/instances",
            {
                "instance": {
                    "name": f"one-{datastore}",
                    "flavorRef": "1",
                    "volume": {"size": 1},
                    "datastore": {"type": datastore},
                    "databases": [{"name": DATABASE}],
                    "users": [user],
                }
            },
        )
        assert status == 200, body
        ids[datastore] = body["instance"]["id"]
    return {name: plane.await_healthy(instance_id) for name, instance_id in ids.items()}


class Tenant:
    """One engine's user, and what the user's owner may do to the instance."""

    def __init__(self, plane: Installation, client: Client, instance: dict, folder: Path) -> None:
        self.plane = plane
        self.client = client
        self.id = instance["id"]
        self.host = instance["ip"][0]
        self._folder = folder
        bundle = IdentityDirectory(plane.state / "operator" / "identity").bundle()
        root = folder / "root.pem"
        root.write_bytes(anchors(bundle, {trust_pb2.AUTHORITY_KIND_DATABASE_ROOT}))
        self._root = str(root)

    def ask(self, statement: str) -> str:
        said = self.client.ask(self.host, statement, self._folder, root=self._root)
        assert said.is_in, said.text
        return said.text

    def memory(self) -> int:
        return int(self.ask(MEMORY[self.client.datastore]).split()[-1])

    def servers(self) -> set[int]:
        found = procfs.under(self.plane.state / "guests" / self.id)
        return {
            each.pid
            for each in found
            if self.client.program in "".join(procfs.arguments(each.pid)[:1])
        }

    def act(self, action: dict) -> dict:
        """Begin it and return the operation that ended."""
        status, body = self.plane.request("POST", f"/instances/{self.id}/action", action)
        assert status == 202, body

        def ended():
            newest = self.plane.operations(self.id)[0]
            return newest if newest["state"] in ENDED else None

        return eventually(ended, f"{action} ended", within=120)

    def quota(self) -> dict[str, tuple[int, int]]:
        _, body = self.plane.request("GET", "/mgmt/quotas/acceptance")
        return {each["resource"]: (each["in_use"], each["reserved"]) for each in body["quotas"]}


@pytest.fixture(params=sorted(MEMORY))
def tenant(request, plane, created, tmp_path) -> Tenant:
    found = Tenant(plane, CLIENTS[request.param], created[request.param], tmp_path)
    if f"{request.param} wrote" not in plane.said:
        found.ask(found.client.write)
        plane.said.append(f"{request.param} wrote")
    return found


def test_restart_is_another_process_with_the_same_data(tenant):
    before = tenant.servers()
    operation = tenant.act({"restart": {}})
    assert operation["state"] == "SUCCEEDED", f"{operation}\n{tenant.plane.logs()}"
    assert [step["name"] for step in operation["steps"]] == [
        "restart_engine",
        "await_healthy",
        "finish",
    ]
    tenant.plane.await_healthy(tenant.id)
    assert before
    assert not before & tenant.servers()
    assert tenant.ask(tenant.client.read) == tenant.client.answer


def test_flavor_is_the_memory_the_engine_runs_with(tenant):
    before = tenant.memory()
    operation = tenant.act({"resize": {"flavorRef": "2"}})
    assert operation["state"] == "SUCCEEDED", f"{operation}\n{tenant.plane.logs()}"
    shown = tenant.plane.await_healthy(tenant.id)
    assert shown["flavor"]["id"] == "2"
    assert tenant.memory() > before * 1.8
    assert tenant.ask(tenant.client.read) == tenant.client.answer


def test_flavor_the_engine_does_not_start_with_is_taken_back(tenant):
    before, held = tenant.memory(), tenant.quota()
    flavor = tenant.plane.instance(tenant.id)["flavor"]["id"]
    operation = tenant.act({"resize": {"flavorRef": "9"}})
    assert operation["state"] == "FAILED", f"{operation}\n{tenant.plane.logs()}"
    assert "the engine does not run with 1073741824 MiB" in operation["fault"]["message"]
    shown = tenant.plane.await_healthy(tenant.id)
    assert shown["flavor"]["id"] == flavor
    assert shown["fault"]["message"] == operation["fault"]["message"]
    assert tenant.memory() == before
    assert tenant.quota() == held
    assert tenant.ask(tenant.client.read) == tenant.client.answer


def test_larger_volume_counts_and_a_smaller_one_is_refused(tenant):
    in_use, _ = tenant.quota()["volumes"]
    operation = tenant.act({"resize": {"volume": {"size": 3}}})
    assert operation["state"] == "SUCCEEDED", f"{operation}\n{tenant.plane.logs()}"
    assert tenant.plane.await_healthy(tenant.id)["volume"]["size"] == 3
    assert tenant.quota()["volumes"] == (in_use + 2, 0)
    status, body = tenant.plane.request(
        "POST", f"/instances/{tenant.id}/action", {"resize": {"volume": {"size": 2}}}
    )
    assert (status, "must be larger" in body["badRequest"]["message"]) == (400, True)


def test_real_client_restarts_and_resizes(tenant):
    tenant.plane.openstack("instance", "restart", tenant.id)
    eventually(
        lambda: tenant.plane.operations(tenant.id)[0]["state"] in ENDED, "the restart ended"
    )
    tenant.plane.await_healthy(tenant.id)
    tenant.plane.openstack("instance", "resize", "volume", tenant.id, "4")
    eventually(
        lambda: tenant.plane.instance(tenant.id)["volume"]["size"] == 4, "the volume is larger"
    )
