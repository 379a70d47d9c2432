"""How an issuer loses what it has, and what its guests and operators do about it."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pki.custody import FileCustody
from pki.issuer import bootstrap
from pki.issuer.config import Config
from pki.requests import csr_der, new_key
from pki.store import Store
from tests.integration.pki.conftest import RunningIssuer, make_config
from tests.integration.pki.test_issuer_process import Guest
from trove_grpc.client import call, open_local_channel
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


def prepared(root: Path) -> Config:
    """An issuer's database and custody, on SQLite."""
    config = make_config(root)
    custody = FileCustody(config.custody_directory, config.passphrase_file)
    custody.prepare()
    store = Store(config.database_url)
    store.migrate()
    store.run_now(lambda s: bootstrap.initialise(s, custody, config, dt.datetime.now(dt.UTC)))
    store.run_now(lambda s: bootstrap.keep_certificates(s, custody))
    store.close()
    return config
