"""Which engines are found, and what the conductor is told of them."""

from __future__ import annotations

from pathlib import Path

from conductor.config import Config
from trove_grpc import config
from trovectl import engines, toml


def program(path: Path, says: str, status: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    path.chmod(0o755)
    return path


def test_programs_become_datastores_with_their_ports_and_versions(tmp_path):
    for version in ("9", "15", "13"):
        program(tmp_path / "postgresql" / version / "bin/postgres", "")
    found = engines.find(
        postgresql=tmp_path / "postgresql",
        mariadb=program(tmp_path / "mariadbd", "mariadbd  Ver 10.11.19-MariaDB for Linux"),
        redis=program(tmp_path / "redis-server", "Redis server v=7.0.15 sha=0 bits=64"),
    )
    file = tmp_path / "conductor.toml"
    file.write_text(
        toml.dumps(
            {
                "identity": tmp_path,
                "database_url": "sqlite://",
                "sealing_key_file": tmp_path,
                **engines.datastores(found),
            }
        )
    )
    settings = config.load(Config, file=file)
    assert settings.default_datastore == "postgresql"
    assert [
        (each.name, each.manager, each.port, each.default_version) for each in settings.datastores
    ] == [
        ("postgresql", "postgresql", 5432, "15"),
        ("mariadb", "mariadb", 3306, "10.11"),
        ("redis", "redis", 6379, "7.0"),
    ]
    assert [version.name for version in settings.datastores[0].versions] == ["15", "13", "9"]


def test_absent_and_broken_programs_are_not_offered(tmp_path):
    found = engines.find(
        postgresql=tmp_path / "postgresql",
        mariadb=program(tmp_path / "mariadbd", "cannot open shared object", status=127),
        redis=tmp_path / "redis-server",
    )
    assert found == []
    assert engines.datastores(found) == {"datastores": [], "default_datastore": ""}
