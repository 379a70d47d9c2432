"""Two ways to an issuer: its rules on a real database at a chosen time, and its process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec

from pki import enrolment, tokens
from pki.custody import FileCustody
from pki.issuer import bootstrap, inventory, process
from pki.issuer.config import Config
from pki.issuer.guests import Guests, Refusal
from pki.issuer.services import Services
from pki.models import AuditRecord, Certificate
from pki.requests import new_key
from pki.store import Store, denials
from tests.fakes.custody import MemoryCustody
from tests.fakes.state_databases import database_servers, database_url
from trove_grpc.client import PeerChannel
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory

__all__ = ["database_servers", "database_url"]

TENANT = "tenant-1"
NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)


def make_config(root: Path, **changes: Any) -> Config:
    return Config(
        **{
            "identity": root / "identity",
            "operator_socket": root / "run" / "operator.sock",
            "database_url": f"sqlite:///{root / 'pki.db'}",
            "custody_directory": root / "custody",
            "passphrase_file": root / "secret" / "passphrase",
            **changes,
        }
    )


@pytest.fixture
def private_directory() -> Iterator[Path]:
    # pytest's own paths are too long for a UNIX socket.
    with tempfile.TemporaryDirectory(prefix="trove-pki-") as name:
        yield Path(name)


class Desk:
    """The issuer's rules on a real database; the test says what time it is."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.now = NOW
        self.custody = MemoryCustody()
        self.store = Store(config.database_url)
        self.store.migrate()
        self.store.run_now(lambda s: bootstrap.initialise(s, self.custody, config, NOW))
        self.signers = self.store.run_now(lambda s: bootstrap.load(s, self.custody))
        self.guests = Guests(self.signers, config)
        self.services = Services(self.signers, config)

    def register(self, instance_id: str | None = None, tenant_id: str = TENANT) -> str:
        instance_id = instance_id or str(uuid.uuid4())
        self.store.run_now(
            lambda s: inventory.register_subject(
                s,
                instance_id=instance_id,
                tenant_id=tenant_id,
                dns_names=[f"{instance_id}.db.local.trove"],
                ip_addresses=["127.0.0.2"],
                actor="test",
                now=self.now,
            )
        )
        return instance_id

    def retire(self, instance_id: str) -> None:
        self.store.run_now(
            lambda s: inventory.retire_subject(
                s, self.config, instance_id, "instance deleted", actor="test", now=self.now
            )
        )

    def mint(self, instance_id: str) -> tokens.EnrolmentToken:
        _row, clear = self.store.run_now(
            lambda s: inventory.mint_token(
                s, self.config, instance_id, None, actor="test", now=self.now
            )
        )
        return clear

    def enrol(
        self,
        token: tokens.EnrolmentToken | None,
        instance_id: str,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Certificate | Refusal:
        return self.store.run_now(
            lambda s: self.guests.enrol(
                s,
                token,
                instance_id=instance_id,
                public_key=(key or new_key()).public_key(),
                actor="test",
                now=self.now,
            )
        )

    def enrolled(self) -> tuple[str, Certificate]:
        instance_id = self.register()
        certificate = self.enrol(self.mint(instance_id), instance_id)
        assert isinstance(certificate, Certificate)
        return instance_id, certificate

    def renew(
        self, present: Certificate, key: ec.EllipticCurvePrivateKey | None = None
    ) -> Certificate:
        public_key = (key or new_key()).public_key()
        return self.store.run_now(
            lambda s: self.guests.renew(s, present.chain_pem, public_key, self.now)
        )

    def confirm(self, present: Certificate) -> None:
        self.store.run_now(lambda s: self.guests.confirm(s, present.chain_pem, self.now))

    def engine(
        self, present: Certificate, key: ec.EllipticCurvePrivateKey | None = None
    ) -> Certificate:
        public_key = (key or new_key()).public_key()
        return self.store.run_now(
            lambda s: self.guests.issue_engine(s, present.chain_pem, public_key, self.now)
        )

    def state(self, certificate: Certificate) -> str:
        return self.store.run_now(
            lambda s: s.scalars(
                sa.select(Certificate.state).where(Certificate.serial == certificate.serial)
            ).one()
        )

    def count_audited(self, action: str) -> int:
        return self.store.run_now(
            lambda s: s.scalars(
                sa.select(sa.func.count()).where(AuditRecord.action == action)
            ).one()
        )

    def denied_serials(self) -> dict[str, dt.datetime]:
        rows = self.store.run_now(lambda s: denials.after(s, 0, 1000))
        return {row.value: row.effective_time for row in rows if row.kind == denials.SERIAL}


@pytest.fixture
def desk(database_url: str, private_directory: Path) -> Iterator[Desk]:
    desk = Desk(make_config(private_directory, database_url=database_url))
    yield desk
    desk.store.close()


@dataclasses.dataclass
class RunningIssuer:
    """An issuer's process in this one, behind its real listeners."""

    root: Path
    config: Config
    port: int
    stack: contextlib.AsyncExitStack
    stop: Callable[[], Awaitable[None]]

    async def identity(self, role: Role, host: str = "localhost") -> IdentityDirectory:
        identity = IdentityDirectory(self.root / f"{role}-{host}")
        if not identity.exists():
            await enrolment.enrol_service(self.config.operator_socket, role, host, identity)
        return identity

    def channel(self, identity: IdentityDirectory) -> PeerChannel:
        channel = PeerChannel(
            [f"127.0.0.1:{self.port}"], identity=identity, server_role=Role.ISSUER
        )
        self.stack.push_async_callback(channel.close)
        return channel

    async def stub(self, role: Role) -> rpc.IssuerServiceStub:
        return self.channel(await self.identity(role)).stub(rpc.IssuerServiceStub)


StartIssuer = Callable[..., Any]


@pytest.fixture
async def start_issuer(private_directory: Path, database_url: str) -> AsyncIterator[StartIssuer]:
    """Start an issuer with these settings, on each kind of database; it stops with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**changes: Any) -> RunningIssuer:
            config = make_config(private_directory, **{"database_url": database_url, **changes})
            custody = FileCustody(config.custody_directory, config.passphrase_file)
            custody.prepare()
            with contextlib.closing(Store(config.database_url)) as store:
                store.migrate()
                now = dt.datetime.now(dt.UTC)
                # May refuse: a test of a lost database wants just that.
                store.run_now(lambda s: bootstrap.initialise(s, custody, config, now))
            stop = asyncio.Event()
            ports: asyncio.Queue[int] = asyncio.Queue()
            task = asyncio.create_task(process.serve(config, stop, ports.put_nowait))
            port = asyncio.ensure_future(ports.get())
            await asyncio.wait({task, port}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                port.cancel()
                await task

            async def end() -> None:
                stop.set()
                await task

            stack.push_async_callback(end)
            return RunningIssuer(private_directory, config, port.result(), stack, end)

        yield start


@pytest.fixture
async def issuer(start_issuer: StartIssuer) -> RunningIssuer:
    running: RunningIssuer = await start_issuer()
    return running
