"""Backup and restore: what comes back, and what is never overwritten."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

from pki import disaster
from pki.custody import CustodyError, FileCustody
from pki.issuer import bootstrap
from pki.models import AuditRecord
from pki.store import Store, audit
from tests.integration.pki.conftest import RunningIssuer, StartIssuer
from tests.integration.pki.disaster_scene import (
    lose_database,
    prepared,
    read_database,
    renew,
    told,
)
from tests.integration.pki.test_issuer_process import Guest
from trove_grpc.errors import ConflictError

_NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


async def test_a_backup_is_made_while_the_issuer_serves_and_verifies(
    issuer: RunningIssuer,
) -> None:
    guest = Guest(issuer)
    await guest.enrol(await guest.registered())
    target = issuer.root / "backup.bin"
    await asyncio.to_thread(disaster.backup_create, issuer.config, target)
    rows = told(await asyncio.to_thread(disaster.backup_verify, issuer.config, target))
    assert (rows["instances"], rows["epoch"]) == (1, 1)
    data = target.read_bytes()
    assert guest.instance_id.encode() not in data
    assert b"PRIVATE KEY" not in data
    with pytest.raises(CustodyError, match="a backup replaces none"):
        await asyncio.to_thread(disaster.backup_create, issuer.config, target)


async def test_a_damaged_backup_and_another_passphrase_are_told(issuer: RunningIssuer) -> None:
    target = issuer.root / "backup.bin"
    await asyncio.to_thread(disaster.backup_create, issuer.config, target)
    whole = target.read_bytes()
    for damaged in (whole[:-1], whole[:200] + b"\x00" + whole[201:], whole + b"\x00"):
        target.write_bytes(damaged)
        with pytest.raises(CustodyError, match="cannot be decrypted"):
            disaster.backup_verify(issuer.config, target)
    target.write_bytes(whole)
    issuer.config.passphrase_file.write_text("another\n")
    with pytest.raises(CustodyError, match="cannot be decrypted"):
        disaster.backup_verify(issuer.config, target)
    target.write_bytes(b"{}\n")
    with pytest.raises(CustodyError, match="is no backup"):
        disaster.backup_verify(issuer.config, target)


async def test_a_backup_is_restored_on_an_empty_machine(start_issuer: StartIssuer) -> None:
    issuer = await start_issuer()
    guest = Guest(issuer)
    enrolled = await guest.enrol(await guest.registered())
    await issuer.stop()
    target = issuer.root / "backup.bin"
    disaster.backup_create(issuer.config, target)
    with pytest.raises(ConflictError, match="database is not empty"):
        disaster.restore(issuer.config, target)
    lose_database(issuer.config)
    shutil.rmtree(issuer.config.custody_directory)
    issuer.config.checkpoints_path.unlink()
    rows = told(disaster.restore(issuer.config, target))
    assert "start the issuer" in rows["next"]
    again = await start_issuer()
    assert await renew(again, enrolled.chain_pem)


def test_a_backup_of_one_engine_is_restored_on_another(
    database_url: str, private_directory: Path
) -> None:
    config = prepared(private_directory)
    target = private_directory / "backup.bin"
    disaster.backup_create(config, target)
    before = read_database(config, sa.select(AuditRecord.hash).order_by(AuditRecord.sequence))
    elsewhere = dataclasses.replace(config, database_url=database_url)
    disaster.restore(elsewhere, target)
    after = read_database(elsewhere, sa.select(AuditRecord.hash).order_by(AuditRecord.sequence))
    assert after == before
    store = Store(database_url)
    assert store.run_now(audit.first_bad_sequence) is None
    # Numbers go on behind those that were restored.
    store.run_now(lambda s: audit.append(s, now=_NOW, actor="a", action="b", subject="c"))
    custody = FileCustody(config.custody_directory, config.passphrase_file)
    store.run_now(lambda s: bootstrap.load(s, custody))
    store.close()


def test_restore_overwrites_no_key(private_directory: Path) -> None:
    config = prepared(private_directory)
    target = private_directory / "backup.bin"
    disaster.backup_create(config, target)
    lose_database(config)
    key = config.custody_directory / "guest-g1.key"
    key.write_bytes((config.custody_directory / "service-g1.key").read_bytes())
    with pytest.raises(ConflictError, match=r"guest-g1\.key is not in the backup as it is here"):
        disaster.restore(config, target)
