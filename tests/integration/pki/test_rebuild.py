"""Rebuild: what comes back, what must not, and what is said of the rest."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from pki import disaster, profiles
from pki.custody import CustodyError, FileCustody
from pki.issuer.checkpoints import SealedError
from pki.issuer.config import Config
from pki.models import AuditRecord, Denial, Domain, Subject
from pki.requests import new_key
from tests.integration.pki.conftest import RunningIssuer, StartIssuer
from tests.integration.pki.disaster_scene import (
    deny,
    export,
    keep_certificates,
    lose_database,
    prepared,
    read_database,
    renew,
    subjects_file,
    told,
)
from tests.integration.pki.test_issuer_process import Guest
from trove_grpc.errors import ConflictError, InvalidRequestError, TroveError, UnauthenticatedError


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
