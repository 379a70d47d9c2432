"""The issuer in memory and the issuer's own process answer the same commands the same way."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pki.issuer import inventory, process
from pki.issuer.config import Config
from pki.store import Store
from tests.integration.pki.conftest import make_config, private_directory
from tests.integration.pki_cli.conftest import Asker, Scene

__all__ = ["private_directory"]


class RealIssuer:
    """The issuer's own process, in a thread of this one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="issuer")

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(process.serve(self.config, self._stop, self._started))

    def _started(self, port: int) -> None:
        self.port = port
        self._ready.set()

    def register(self) -> str:
        """An instance that may have a token."""
        instance_id = str(uuid.uuid4())
        store = Store(self.config.database_url)
        store.run_now(
            lambda session: inventory.register_subject(
                session,
                instance_id=instance_id,
                tenant_id="t",
                dns_names=[],
                ip_addresses=[],
                actor="test",
                now=dt.datetime.now(dt.UTC),
            )
        )
        store.close()
        return instance_id


class Issuer:
    """One of the two, and an instance it knows."""

    def __init__(self, asker: Asker, instance_id: str, address: str) -> None:
        self.asker = asker
        self.instance_id = instance_id
        self.address = address


@pytest.fixture(params=["fake", "real"])
def issuer(
    request: pytest.FixtureRequest, scene: Scene, private_directory: Path
) -> Iterator[Issuer]:
    if request.param == "fake":
        instance_id = scene.state.add_agent("NEVER").instance_id
        yield Issuer(scene, instance_id, scene.fake.address)
        return
    config = make_config(private_directory)
    file = private_directory / "issuer.toml"
    names = ("identity", "operator_socket", "database_url", "custody_directory", "passphrase_file")
    file.write_text("".join(f'{name} = "{getattr(config, name)}"\n' for name in names))
    asker = Asker(private_directory, config.operator_socket)
    assert asker.run("init", "--config", str(file)).status == 0
    real = RealIssuer(config)
    real.start()
    try:
        yield Issuer(asker, real.register(), f"127.0.0.1:{real.port}")
    finally:
        real.stop()


def test_an_operator_enters_by_either_way(issuer: Issuer):
    asker = issuer.asker
    folder = str(asker.root / "ann")
    issued = asker.json("operator", "issue", "--name", "ann", "--identity", folder)
    assert issued.rows[0]["spiffe_id"] == "spiffe://local.trove/operator/ann"
    remote = asker.run("bundle", "show", "--issuer", issuer.address, "--identity", folder)
    assert remote.status == 0
    assert remote.out == asker.ask("bundle", "show").out


def test_a_token_lives_from_its_creation_to_its_revocation(issuer: Issuer):
    asker = issuer.asker
    for _ in range(2):
        created = asker.json("token", "create", "--instance", issuer.instance_id)
        assert created.rows[0]["token"].startswith("trv1.")
    states = sorted(row["state"] for row in asker.json("token", "list").rows)
    assert states == ["OPEN", "VOID"]
    (last,) = asker.json("token", "list", "--state", "open").rows
    assert last["instance_id"] == issuer.instance_id
    assert asker.ask("token", "revoke", last["token_id"], "--yes").status == 0
    assert asker.ask("token", "revoke", last["token_id"], "--yes").status == 3
    assert asker.ask("token", "revoke", "nobody's", "--yes").status == 1


def test_a_bundle_is_exported_compared_and_pushed(issuer: Issuer):
    asker = issuer.asker
    file = asker.root / "bundle.pb"
    exported = asker.json("bundle", "export", "--format", "pb", "--out", str(file)).rows[0]
    assert asker.ask("bundle", "diff", str(file)).status == 3
    pushed = asker.json("bundle", "push", "--reason", "a test").rows[0]
    assert pushed["bundle_version"] == exported["bundle_version"] + 1
    assert asker.ask("bundle", "diff", str(file)).status == 3


def test_a_serial_is_denied_once_though_it_is_said_twice(issuer: Issuer):
    deny = ("deny", "serial", "abc123", "--reason", "stolen", "--yes")
    first, second = issuer.asker.json(*deny), issuer.asker.json(*deny)
    assert (first.status, second.status) == (0, 0)
    assert first.rows[0]["sequence"] == second.rows[0]["sequence"]


def test_the_diary_is_read_sealed_verified_and_exported(issuer: Issuer):
    asker = issuer.asker
    assert asker.json("audit", "tail", "--lines", "1").rows[0]["sequence"] >= 1
    sealed = asker.json("audit", "checkpoint").rows[0]
    verified = asker.json("audit", "verify")
    assert verified.status == 0
    assert verified.rows[0]["last_checkpoint"]["sequence"] == sealed["sequence"]
    file = asker.root / "audit.jsonl"
    exported = asker.json("audit", "export", "--out", str(file)).rows[0]
    assert exported["records"] == len(file.read_text().splitlines()) > 0


def test_an_instance_nobody_knows_is_an_error_with_a_remedy(issuer: Issuer):
    done = issuer.asker.ask("token", "create", "--instance", str(uuid.uuid4()))
    assert done.status == 1
    assert done.notes.startswith("trove-pki: ")
