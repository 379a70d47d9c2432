"""What works on the issuer's host without it: keys, backups, a restore, a rebuild."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from tests.integration.pki.conftest import private_directory
from tests.integration.pki_cli.conftest import Asker, Scene
from tests.integration.pki_cli.real_issuer import write_settings

__all__ = ["private_directory"]


class Host(Asker):
    """An issuer's directories, and somebody who may read them."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, root / "run" / "operator.sock")
        self.config = write_settings(root)

    def local(self, *arguments: str):
        return self.run(*arguments, "--config", str(self.config))


@pytest.fixture
def host(private_directory: Path) -> Host:
    host = Host(private_directory)
    assert host.local("init").status == 0
    return host


def test_init_says_which_keys_it_made_and_makes_them_once(private_directory: Path):
    host = Host(private_directory)
    first = host.local("--output", "json", "init")
    assert len(first.rows) == 6
    assert host.local("init").out == "nothing to do: all authorities exist\n"


def test_custody_is_shown_and_every_key_is_compared(host: Host):
    (row,) = host.local("--output", "json", "custody", "status").rows
    assert (row["custody"], row["in_use"], row["state"], row["keys"]) == ("files", True, "OK", 6)
    assert {row["result"] for row in host.local("--output", "json", "custody", "verify").rows} == {
        "OK"
    }


def test_7_when_a_key_is_open_to_others_or_not_its_certificate_s(host: Host, scene: Scene):
    guest, service = (host.root / "custody" / f"{name}-g1.key" for name in ("guest", "service"))
    guest.write_bytes(service.read_bytes())
    verified = host.local("custody", "verify")
    assert verified.status == 7
    (host.root / "custody").chmod(0o755)
    assert host.local("custody", "verify").status == 7
    found = scene.ask("doctor", "--config", str(host.config))
    assert found.status == 1
    assert "custody: files at" in found.out


def test_status_on_the_issuer_s_host_shows_custody(host: Host, scene: Scene):
    assert "with --config" in scene.ask("status").out
    assert str(host.root / "custody") in scene.ask("status", "--config", str(host.config)).out


def test_keys_are_not_moved_without_consent_or_to_a_custody_nobody_described(host: Host):
    assert host.local("custody", "migrate", "--to", "barbican").status == 4
    assert host.local("custody", "migrate", "--to", "barbican", "--dry-run").status == 0
    assert host.local("custody", "migrate", "--to", "barbican", "--yes").status == 2
    assert host.local("custody", "clear", "--of", "files", "--yes").status == 4


def test_a_backup_is_written_verified_and_restored_into_an_empty_place(host: Host):
    file = str(host.root / "pki.backup")
    assert host.local("backup", "create", file, "--dry-run").status == 0
    assert not Path(file).exists()
    assert host.local("backup", "create", file).status == 0
    assert host.local("backup", "create", file).status == 4
    verified = host.local("--output", "json", "backup", "verify", file)
    assert "trust_domain" not in verified.rows[0]
    assert {"what": "trust domain", "value": "local.trove"} in verified.rows
    assert host.local("restore", file).status == 4
    assert host.local("restore", file, "--yes").status == 4
    assert host.local("restore", file, "--verify-only").status == 0
    (host.root / "pki.db").unlink()
    restored = host.local("restore", file, "--yes")
    assert restored.status == 0, restored.notes
    assert "start the issuer" in restored.out


def test_7_when_a_backup_was_changed(host: Host):
    file = host.root / "pki.backup"
    host.local("backup", "create", str(file))
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    assert host.local("backup", "verify", str(file)).status == 7


def test_a_lost_database_is_rebuilt_from_the_keys(host: Host):
    instances = host.root / "instances.jsonl"
    instance = {"instance_id": str(uuid.uuid4()), "tenant_id": "t"}
    instances.write_text(json.dumps(instance) + "\n")
    rebuild = ("rebuild", "--subjects", str(instances))
    assert host.local("backup", "create", str(host.root / "pki.backup")).status == 0
    assert host.local(*rebuild, "--yes").status == 3
    (host.root / "pki.db").unlink()
    assert host.local(*rebuild).status == 4
    rebuilt = host.local("--output", "json", *rebuild, "--yes")
    assert rebuilt.status == 0, rebuilt.notes
    told = {row["what"]: row["value"] for row in rebuilt.rows}
    assert (told["instances registered"], told["authorities"]) == (1, 6)
