"""Backup, restore and rebuild: what comes back, what must not, and what is said of the rest."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy.orm import Session

from pki import disaster, profiles
from pki.custody import CustodyError, FileCustody
from pki.disaster import exported
from pki.issuer import bootstrap
from pki.issuer.checkpoints import SealedError
from pki.issuer.config import Config
from pki.models import AuditRecord, Denial, Domain, Subject
from pki.requests import csr_der, new_key
from pki.store import Store, audit
from tests.integration.pki.conftest import Desk, RunningIssuer, StartIssuer
from tests.integration.pki.test_issuer_process import Guest
from trove_grpc.client import call, open_local_channel
from trove_grpc.errors import ConflictError, InvalidRequestError, TroveError, UnauthenticatedError
from trove_grpc.gen.issuer.v1 import audit_service_pb2 as audit_pb
from trove_grpc.gen.issuer.v1 import audit_service_pb2_grpc as audit_rpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.identity import Role

TIMEOUT = 20.0


def told(rows: list[Any]) -> dict[str, Any]:
    return {row["what"]: row["value"] for row in rows}


async def export(issuer: RunningIssuer, path: Path) -> Path:
    """What `trove-pki audit export` writes."""
    async with open_local_channel(issuer.config.operator_socket) as channel:
        answer = await call(
            audit_rpc.AuditServiceStub(channel).ListAuditRecords,
            audit_pb.ListAuditRecordsRequest(page_size=1000),
            timeout=TIMEOUT,
        )
    lines = [
        {
            "sequence": row.sequence,
            "time": row.time,
            "actor": row.actor,
            "action": row.action,
            "subject": row.subject,
            "detail": json.loads(row.detail),
            "previous_hash": row.previous_hash,
            "hash": row.hash,
        }
        for row in answer.records
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


async def deny(issuer: RunningIssuer, instance_id: str) -> None:
    async with open_local_channel(issuer.config.operator_socket) as channel:
        await call(
            rpc.IssuerServiceStub(channel).CreateDenial,
            pb.CreateDenialRequest(
                kind=pb.DENIAL_KIND_INSTANCE, value=instance_id, reason="INC-7"
            ),
            timeout=TIMEOUT,
        )


async def renew(issuer: RunningIssuer, chain_pem: bytes) -> bytes:
    gateway = await issuer.stub(Role.GATEWAY)
    answer = await call(
        gateway.RenewGuest,
        pb.RenewGuestRequest(certificate_pem=chain_pem, csr_der=csr_der(new_key())),
        timeout=TIMEOUT,
    )
    renewed: bytes = answer.chain_pem
    return renewed


def keep_certificates(config: Config) -> None:
    """What `trove-pki init` does after its commit."""
    store = Store(config.database_url)
    custody = FileCustody(config.custody_directory, config.passphrase_file)
    store.run_now(lambda session: bootstrap.keep_certificates(session, custody))
    store.close()


def lose_database(config: Config) -> None:
    store = Store(config.database_url)
    found = sa.MetaData()
    found.reflect(store.engine)
    found.drop_all(store.engine)
    store.close()


def subjects_file(path: Path, *guests: Guest, tenant_id: str = "t") -> Path:
    lines = [
        {
            "instance_id": guest.instance_id,
            "tenant_id": tenant_id,
            "engine_dns_names": ["i.db.local.trove"],
            "engine_ip_addresses": ["127.0.0.2"],
        }
        for guest in guests
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def read_database(config: Config, query: Any) -> list[Any]:
    store = Store(config.database_url)
    try:
        return list(store.run_now(lambda session: session.scalars(query).all()))
    finally:
        store.close()


# Backups.


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


_NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


def prepared(root: Path) -> Config:
    """An issuer's database and custody, on SQLite."""
    from tests.integration.pki.conftest import make_config

    config = make_config(root)
    custody = FileCustody(config.custody_directory, config.passphrase_file)
    custody.prepare()
    store = Store(config.database_url)
    store.migrate()
    store.run_now(lambda s: bootstrap.initialise(s, custody, config, dt.datetime.now(dt.UTC)))
    store.run_now(lambda s: bootstrap.keep_certificates(s, custody))
    store.close()
    return config


def test_restore_overwrites_no_key(private_directory: Path) -> None:
    config = prepared(private_directory)
    target = private_directory / "backup.bin"
    disaster.backup_create(config, target)
    lose_database(config)
    key = config.custody_directory / "guest-g1.key"
    key.write_bytes((config.custody_directory / "service-g1.key").read_bytes())
    with pytest.raises(ConflictError, match=r"guest-g1\.key is not in the backup as it is here"):
        disaster.restore(config, target)


# Rebuild.


@dataclasses.dataclass
class Ruins:
    """An issuer whose database is gone, and the guests that do not know it yet."""

    issuer: RunningIssuer
    start: StartIssuer
    guests: list[Guest]
    chains: list[bytes]
    audit_file: Path

    def rebuild(self, **changes: Any) -> dict[str, Any]:
        root = self.issuer.root
        return told(
            disaster.rebuild(
                self.issuer.config,
                **{
                    "subjects_file": subjects_file(root / "subjects.jsonl", *self.guests),
                    "audit_files": [self.audit_file],
                    **changes,
                },
            )
        )


@pytest.fixture
async def ruins(start_issuer: StartIssuer) -> Ruins:
    issuer = await start_issuer()
    keep_certificates(issuer.config)
    guests = [Guest(issuer) for _ in range(3)]
    chains = [(await guest.enrol(await guest.registered())).chain_pem for guest in guests]
    await deny(issuer, guests[2].instance_id)
    audit_file = await export(issuer, issuer.root / "audit.jsonl")
    await issuer.stop()
    lose_database(issuer.config)
    return Ruins(issuer, start_issuer, guests, chains, audit_file)


async def test_a_lost_database_is_rebuilt_and_guests_renew(ruins: Ruins) -> None:
    with pytest.raises(SealedError):
        await ruins.start()
    rows = ruins.rebuild()
    assert (rows["epoch"], rows["denials replayed"]) == (2, 1)
    issuer = await ruins.start()
    renewed = await renew(issuer, ruins.chains[0])
    assert renewed
    adopted = read_database(
        issuer.config, sa.select(AuditRecord).where(AuditRecord.action == "adopt-certificate")
    )
    # The gateway's own certificate came back too, when it asked for the bundle or not at all.
    assert ruins.guests[0].instance_id in {row.subject for row in adopted}


async def test_a_denial_that_was_exported_still_refuses(ruins: Ruins) -> None:
    ruins.rebuild()
    issuer = await ruins.start()
    with pytest.raises(UnauthenticatedError) as caught:
        await renew(issuer, ruins.chains[2])
    assert caught.value.reason == "CERTIFICATE_DENIED"


async def test_an_instance_that_nobody_registered_comes_not_back(ruins: Ruins) -> None:
    kept = ruins.guests
    ruins.guests = kept[:1]
    ruins.rebuild()
    issuer = await ruins.start()
    with pytest.raises(TroveError) as caught:
        await renew(issuer, ruins.chains[1])
    assert caught.value.reason == "UNKNOWN_CERTIFICATE"


async def test_a_leaf_of_another_tenant_comes_not_back(ruins: Ruins) -> None:
    path = subjects_file(ruins.issuer.root / "s.jsonl", *ruins.guests, tenant_id="other")
    ruins.rebuild(subjects_file=path)
    issuer = await ruins.start()
    with pytest.raises(TroveError) as caught:
        await renew(issuer, ruins.chains[0])
    assert caught.value.reason == "UNKNOWN_CERTIFICATE"


def signed_by_custody(
    config: Config, guest: Guest, *, begins: dt.datetime, kind: str = "guest"
) -> bytes:
    """A leaf as the lost database's issuer made them, or as a thief of the key makes them."""
    from cryptography import x509

    custody = FileCustody(config.custody_directory, config.passphrase_file)
    pem = custody.load_certificate("guest-g1")
    builder = profiles.guest(
        new_key().public_key(),
        x509.load_pem_x509_certificate(pem),
        trust_domain=config.trust_domain,
        tenant_id="t",
        instance_id=guest.instance_id,
        lifetime=dt.timedelta(hours=72),
        now=begins,
    )
    key = custody.load("guest-g1") if kind == "guest" else new_key()
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM) + pem


async def test_an_older_copy_comes_not_back_behind_a_newer_one(ruins: Ruins) -> None:
    older = signed_by_custody(
        ruins.issuer.config,
        ruins.guests[0],
        begins=dt.datetime.now(dt.UTC) - dt.timedelta(hours=1),
    )
    ruins.rebuild()
    issuer = await ruins.start()
    await renew(issuer, ruins.chains[0])
    with pytest.raises(TroveError) as caught:
        await renew(issuer, older)
    assert caught.value.reason == "UNKNOWN_CERTIFICATE"


@pytest.mark.parametrize(
    ("later", "kind"), [(dt.timedelta(minutes=20), "guest"), (-dt.timedelta(hours=1), "stranger")]
)
async def test_a_leaf_made_after_the_rebuild_or_by_another_key_comes_not_back(
    ruins: Ruins, later: dt.timedelta, kind: str
) -> None:
    ruins.rebuild()
    forged = signed_by_custody(
        ruins.issuer.config,
        ruins.guests[0],
        begins=dt.datetime.now(dt.UTC) + later - dt.timedelta(minutes=5),
        kind=kind,
    )
    issuer = await ruins.start()
    with pytest.raises(TroveError) as caught:
        await renew(issuer, forged)
    assert caught.value.reason in {"UNKNOWN_CERTIFICATE", "BAD_PROFILE"}


async def test_pollers_and_holders_learn_of_the_new_epoch(ruins: Ruins) -> None:
    ruins.rebuild()
    sequences = read_database(ruins.issuer.config, sa.select(Denial.sequence))
    versions = read_database(ruins.issuer.config, sa.select(Domain.bundle_version))
    assert min(sequences) > 1_000_000_000
    assert versions[0] > 1000


async def test_a_rebuild_says_what_it_does_not_cover(ruins: Ruins) -> None:
    lines = ruins.audit_file.read_text().splitlines(keepends=True)
    ruins.audit_file.write_text("".join(lines[:5]))
    rows = ruins.rebuild()
    assert "were signed and not exported" in rows["not covered"]
    assert rows["denials replayed"] == 0


async def test_a_second_rebuild_has_nothing_to_do(ruins: Ruins) -> None:
    ruins.rebuild()
    with pytest.raises(ConflictError) as caught:
        ruins.rebuild()
    assert caught.value.reason == "NOTHING_TO_REBUILD"


async def test_an_edited_export_is_refused_and_nothing_is_rebuilt(ruins: Ruins) -> None:
    text = ruins.audit_file.read_text()
    ruins.audit_file.write_text(text.replace("INC-7", "INC-8"))
    with pytest.raises(SealedError, match="was edited"):
        ruins.rebuild()
    assert read_database(ruins.issuer.config, sa.select(Domain)) == []


async def test_a_key_that_is_not_its_certificates_is_told(ruins: Ruins) -> None:
    custody = ruins.issuer.config.custody_directory
    (custody / "guest-g1.key").unlink()
    shutil.copy(custody / "service-g1.key", custody / "guest-g1.key")
    with pytest.raises(CustodyError, match="guest-g1 in custody is not that of the certificate"):
        ruins.rebuild()


def test_a_rebuild_must_be_told_where_the_instances_are(private_directory: Path) -> None:
    with pytest.raises(InvalidRequestError, match="say where the instances are"):
        disaster.rebuild(prepared(private_directory))


async def test_an_old_backup_is_sealed_until_it_is_rebuilt(start_issuer: StartIssuer) -> None:
    """Attack case 71: what was denied since the backup is refused again."""
    issuer = await start_issuer()
    keep_certificates(issuer.config)
    guest, denied = Guest(issuer), Guest(issuer)
    chain = (await guest.enrol(await guest.registered())).chain_pem
    denied_chain = (await denied.enrol(await denied.registered())).chain_pem
    target = issuer.root / "backup.bin"
    await asyncio.to_thread(disaster.backup_create, issuer.config, target)
    await deny(issuer, denied.instance_id)
    audit_file = await export(issuer, issuer.root / "audit.jsonl")
    await issuer.stop()
    lose_database(issuer.config)
    rows = told(disaster.restore(issuer.config, target))
    assert rows["next"].startswith("trove-pki rebuild")
    with pytest.raises(SealedError, match="rolled back"):
        await start_issuer()
    path = subjects_file(issuer.root / "subjects.jsonl", guest, denied)
    disaster.rebuild(issuer.config, subjects_file=path, audit_files=[audit_file])
    again = await start_issuer()
    assert await renew(again, chain)
    with pytest.raises(UnauthenticatedError):
        await renew(again, denied_chain)
    assert read_database(again.config, sa.select(Subject.state)) == ["ACTIVE", "ACTIVE"]


async def test_a_quarantine_that_was_exported_is_in_force_again(start_issuer: StartIssuer) -> None:
    issuer = await start_issuer()
    keep_certificates(issuer.config)
    guests = [Guest(issuer) for _ in range(2)]
    chains = []
    for guest in guests:
        token = await guest.registered()
        chains.append((await guest.enrol(token)).chain_pem)
    # The second one's token is shown again, with another key: it leaked.
    with pytest.raises(UnauthenticatedError):
        await guests[1].enrol(token)
    audit_file = await export(issuer, issuer.root / "audit.jsonl")
    await issuer.stop()
    lose_database(issuer.config)
    path = subjects_file(issuer.root / "subjects.jsonl", *guests)
    rows = told(disaster.rebuild(issuer.config, subjects_file=path, audit_files=[audit_file]))
    assert rows["quarantines replayed"] == 1
    again = await start_issuer()
    assert await renew(again, chains[0])
    with pytest.raises(ConflictError) as caught:
        await renew(again, chains[1])
    assert caught.value.reason == "QUARANTINED"


# What exported records say.


def write(desk: Desk, action: str, instance_id: str, **detail: str) -> None:
    desk.store.run_now(
        lambda s: audit.append(
            s, now=desk.now, actor="o", action=action, subject=instance_id, detail=detail
        )
    )


@pytest.mark.parametrize(
    ("action", "detail", "is_left"),
    [
        ("resolve-clone", {"resolution": "KEEP"}, False),
        ("resolve-clone", {"resolution": "REISSUE"}, True),
        ("retire-subject", {"reason": "deleted"}, False),
        ("enrol-guest", {"serial": "of-a-new-token"}, False),
        ("renew-guest", {"serial": "b", "replaces": "a"}, True),
    ],
)
def test_a_quarantine_lasts_until_what_ends_it(
    desk: Desk, action: str, detail: dict[str, str], *, is_left: bool
) -> None:
    instance_id, _first = desk.enrolled()
    write(desk, "quarantine", instance_id, why="seen twice")
    write(desk, action, instance_id, **detail)
    left = {instance_id: "seen twice"} if is_left else {}
    assert exported.quarantined(records(desk)) == left


def test_a_reply_that_was_asked_for_again_ends_no_quarantine(desk: Desk) -> None:
    instance_id, first = desk.enrolled()
    write(desk, "quarantine", instance_id, why="seen twice")
    write(desk, "enrol-guest", instance_id, serial=first.serial)
    assert set(exported.quarantined(records(desk))) == {instance_id}


def records(desk: Desk) -> list[AuditRecord]:
    def work(session: Session) -> list[AuditRecord]:
        return list(audit.after(session, 0, 1000))

    return desk.store.run_now(work)


@pytest.fixture
def denied_in(desk: Desk) -> Callable[[], set[tuple[str, str]]]:
    return lambda: {(each.kind, each.value) for each in exported.denied(records(desk))}


def test_a_certificate_whose_successor_was_used_is_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    _instance_id, first = desk.enrolled()
    second = desk.renew(first)
    assert denied_in() == set()  # the successor may have been lost on its way
    desk.renew(second)
    assert denied_in() == {("SERIAL", first.serial)}


def test_what_a_machine_held_before_it_enrolled_anew_is_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    instance_id, first = desk.enrolled()
    desk.enrol(desk.mint(instance_id), instance_id)
    assert denied_in() == {("SERIAL", first.serial)}


def test_a_generation_that_was_tainted_is_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    desk.store.run_now(
        lambda s: audit.append(
            s, now=desk.now, actor="o", action="taint-authority", subject="guest/1", detail={}
        )
    )
    assert denied_in() == {("GENERATION", "guest/1")}


def test_an_identity_that_ended_is_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    instance_id, _first = desk.enrolled()
    desk.retire(instance_id)
    assert denied_in() == {("INSTANCE", instance_id)}


def test_what_an_operator_reissued_is_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    instance_id, first = desk.enrolled()
    desk.store.run_now(
        lambda s: audit.append(
            s,
            now=desk.now,
            actor="o",
            action="resolve-clone",
            subject=instance_id,
            detail={"resolution": "REISSUE"},
        )
    )
    assert denied_in() == {("SERIAL", first.serial)}


def test_what_an_instance_held_while_it_was_denied_stays_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    instance_id, first = desk.enrolled()
    for action in ("create-denial", "lift-denial"):
        desk.store.run_now(
            lambda s, action=action: audit.append(
                s, now=desk.now, actor="o", action=action, subject=f"instance {instance_id}"
            )
        )
    assert denied_in() == {("SERIAL", first.serial)}


def test_a_reply_that_was_asked_for_again_is_not_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    instance_id, first = desk.enrolled()
    desk.store.run_now(
        lambda s: audit.append(
            s,
            now=desk.now,
            actor="o",
            action="enrol-guest",
            subject=instance_id,
            detail={"serial": first.serial},
        )
    )
    assert denied_in() == set()


def test_what_was_adopted_is_refused_after_the_machine_enrolled_anew(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    instance_id = desk.register()
    desk.store.run_now(
        lambda s: audit.append(
            s,
            now=desk.now,
            actor="o",
            action="adopt-certificate",
            subject=instance_id,
            detail={"serial": "abc"},
        )
    )
    desk.enrol(desk.mint(instance_id), instance_id)
    assert denied_in() == {("SERIAL", "abc")}
