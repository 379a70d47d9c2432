"""Settings are refused where they contradict one another."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from conductor.config import Config, Datastore, Version
from trove_grpc import config as settings
from trove_grpc.errors import InvalidRequestError

NEEDED: dict[str, Any] = {
    "identity": Path("/i"),
    "database_url": "sqlite:////d.db",
    "sealing_key_file": Path("/k"),
}


def test_file_with_datastores_and_quotas_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        """
        identity = "/i"
        database_url = "sqlite:////d.db"
        sealing_key_file = "/k"
        heartbeat_interval = 0.5
        presence_deadline = 3
        default_datastore = "redis"
        quotas = {instances = 3, volumes = -1}

        [[datastores]]
        name = "redis"
        manager = "redis"
        port = 6379
        default_version = "7"
        versions = [{name = "7"}, {name = "6", active = false}]
        """
    )
    config = settings.load(Config, file=file)
    assert config.heartbeat_interval == dt.timedelta(seconds=0.5)
    assert config.presence_persist_interval == dt.timedelta(seconds=1)
    assert (config.quotas.instances, config.quotas.volumes, config.quotas.backups) == (3, -1, 50)
    assert [version.active for version in config.datastores[0].versions] == [True, False]


def test_unchanged_heartbeats_are_persisted_every_half_minute_by_default() -> None:
    assert Config(**NEEDED).presence_persist_interval == dt.timedelta(seconds=30)


def test_deadline_that_one_lost_heartbeat_breaks_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="presence_deadline"):
        Config(**NEEDED, presence_deadline=dt.timedelta(seconds=15))


def test_unknown_default_datastore_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="default_datastore"):
        Config(**NEEDED, default_datastore="mongodb")


def test_unknown_default_version_is_refused() -> None:
    datastore = Datastore(
        name="postgresql",
        manager="postgresql",
        port=5432,
        versions=(Version(name="15"),),
        default_version="16",
    )
    with pytest.raises(InvalidRequestError, match="default_version"):
        Config(**NEEDED, datastores=(datastore,))
