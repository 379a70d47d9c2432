"""Each engine through the real client, side by side: the same promises, its own tools."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from gateway.rest.passwords import mysql_native_password_verifier, redis_sha_256_verifier
from tests.acceptance.engine_clients import CLIENTS, DATABASE, PASSWORD, USER, Client
from tests.acceptance.installation import Installation, eventually, files_below
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.tls import IdentityDirectory, anchors
from trovectl import engines, ports, procfs

INSTALLED = [installed.manager for installed in engines.find()]


@pytest.fixture(scope="module")
def created(shared: Installation):
    """One healthy instance of each engine, all built at once; by datastore."""
    ids = {}
    for client in CLIENTS.values():
        options = ["--databases", DATABASE] if client.has_databases else []
        answer = shared.openstack(
            *("instance", "create", f"one-{client.datastore}", "--flavor", "db.tiny"),
            *("--size", "1", "--datastore", client.datastore, *options),
            *("--users", f"{USER}:{PASSWORD}", "-f", "json"),
        )
        ids[client.datastore] = answer["id"]
    yield {name: shared.await_healthy(instance_id) for name, instance_id in ids.items()}
    for instance_id in ids.values():
        shared.request("DELETE", f"/instances/{instance_id}")
    for instance_id in ids.values():
        shared.await_gone(instance_id)


@pytest.fixture(params=sorted(CLIENTS))
def client(request) -> Client:
    return CLIENTS[request.param]


@pytest.fixture
def root(shared: Installation, tmp_path) -> str:
    bundle = IdentityDirectory(shared.state / "operator" / "identity").bundle()
    path = tmp_path / "root.pem"
    path.write_bytes(anchors(bundle, {trust_pb2.AUTHORITY_KIND_DATABASE_ROOT}))
    return str(path)


def servers(shared: Installation, client: Client, instance_id: str) -> list[procfs.ProcessId]:
    """The engine's processes of this guest that are not a child of another one."""
    found = [
        process
        for process in procfs.under(shared.state / "guests" / instance_id)
        if client.program in "".join(procfs.arguments(process.pid)[:1])
    ]
    return [each for each in found if client.datastore != "postgresql" or is_parent(each.pid)]


def is_parent(pid: int) -> bool:
    return "-D" in procfs.arguments(pid)


def test_what_is_installed_is_offered_with_versions(shared):
    _, body = shared.request("GET", "/datastores")
    offered = {each["name"]: each for each in body["datastores"]}
    assert set(offered) == set(INSTALLED) == set(CLIENTS)
    for each in offered.values():
        assert [version["id"] for version in each["versions"]] == [each["default_version"]]


def test_its_user_connects_verified_and_keeps_what_was_written(created, client, root):
    (host,) = created[client.datastore]["ip"]
    folder = Path(root).parent
    said = client.ask(host, client.write, folder, root=root)
    assert said.is_in, said.text
    assert client.ask(host, client.read, folder, root=root).text == client.answer


def test_plaintext_wrong_passwords_and_other_authorities_are_refused(created, client, root):
    (host,) = created[client.datastore]["ip"]
    folder = Path(root).parent
    assert not client.ask(host, client.read, folder, root="").is_in
    assert not client.ask(host, client.read, folder, root=root, password="another").is_in
    system = "/etc/ssl/certs/ca-certificates.crt"
    if Path(system).exists():
        assert not client.ask(host, client.read, folder, root=system).is_in


def test_killed_engine_comes_back_with_its_data_and_rest_shows_it(shared, created, client, root):
    instance_id = created[client.datastore]["id"]
    (host,) = created[client.datastore]["ip"]
    folder = Path(root).parent
    if client.ask(host, client.read, folder, root=root).text != client.answer:
        assert client.ask(host, client.write, folder, root=root).is_in
    before = shared.instance(instance_id)["engine"]["start_count"]
    for process in servers(shared, client, instance_id):
        procfs.send(process, signal.SIGKILL)

    def recovered():
        found = shared.instance(instance_id)
        return found["engine"]["start_count"] > before and found["operating_status"] == "HEALTHY"

    eventually(recovered, f"{client.datastore} back and REST showing it")
    assert client.ask(host, client.read, folder, root=root).text == client.answer


def test_it_listens_on_its_standard_port_and_its_own_address_only(created, client):
    (host,) = created[client.datastore]["ip"]
    assert not ports.is_free(host, client.port)
    neighbour = host.rpartition(".")[0] + (".1" if not host.endswith(".1") else ".2")
    assert ports.is_free(neighbour, client.port)


def test_volume_and_version_are_shown(shared, created, client):
    def measured():
        found = shared.instance(created[client.datastore]["id"])
        return found if found["volume"].get("used") is not None else None

    found = eventually(measured, "a volume's usage")
    assert found["datastore"]["type"] == client.datastore
    assert 0 <= found["volume"]["used"] < 1  # GiB, two places: an empty Redis has 0.0


@pytest.mark.usefixtures("created")
def test_passwords_and_verifiers_are_kept_by_the_engines_alone(shared):
    secrets = [
        PASSWORD,
        mysql_native_password_verifier(PASSWORD)[1:],
        redis_sha_256_verifier(PASSWORD)[1:],
    ]
    needles = [secret.encode() for secret in secrets]
    looked_at = 0
    for path in files_below(shared.state):
        if "/engine/" in str(path) or "/runtime/" in str(path) or not path.is_file():
            continue
        content = path.read_bytes().lower()
        looked_at += 1
        assert not [needle for needle in needles if needle.lower() in content], path
    assert looked_at > 20


def test_what_an_engine_does_not_have_is_refused_with_troves_code(shared):
    def create(datastore: str, **changes: object) -> tuple[int, str]:
        instance = {"name": "no", "flavorRef": "1", "volume": {"size": 1}}
        status, body = shared.request(
            "POST",
            "/instances",
            {"instance": {**instance, "datastore": {"type": datastore}, **changes}},
        )
        return status, str(body)

    user = {"name": "eve", "password": "s3cret-Pass"}
    status, text = create("redis", databases=[{"name": "app"}])
    assert status == 501, text
    assert "instance.databases" in text
    for datastore in ("postgresql", "redis"):
        status, text = create(datastore, users=[{**user, "host": "10.0.0.7"}])
        assert status == 400, text
    status, text = create("mariadb", users=[{**user, "host": "some.where"}])
    assert status == 400, text
    for datastore, name in (("mariadb", "mysql"), ("postgresql", "template1")):
        status, text = create(datastore, databases=[{"name": name}])
        assert (status, "reserved" in text) == (400, True), text
    status, text = create("oracle")
    assert status in (400, 404), text


def test_deleted_instances_leave_nothing(shared, client):
    options = {"databases": [{"name": DATABASE}]} if client.has_databases else {}
    status, body = shared.request(
        "POST",
        "/instances",
        {
            "instance": {
                "name": "short-lived",
                "flavorRef": "1",
                "volume": {"size": 1},
                "datastore": {"type": client.datastore},
                **options,
            }
        },
    )
    assert status == 200, body
    instance_id = body["instance"]["id"]
    (host,) = shared.await_healthy(instance_id)["ip"]
    shared.request("DELETE", f"/instances/{instance_id}")
    shared.await_gone(instance_id)
    folder = shared.state / "guests" / instance_id
    eventually(lambda: not folder.exists(), "the guest's files removed")
    assert procfs.under(folder) == []
    assert ports.is_free(host, client.port)
