"""Runs the commands of docs/how-to/disaster-*.md, as they stand there, on a real issuer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pki import enrolment, proof
from pki.requests import csr_der, key_pem, new_key
from tests.integration.pki.test_command_line import Installation
from trove_grpc.client import PeerChannel, call
from trove_grpc.errors import ConflictError, TroveError
from trove_grpc.gen.conductor.v1 import instance_service_pb2 as conductor_pb
from trove_grpc.gen.conductor.v1 import instance_service_pb2_grpc as conductor_rpc
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.gen.guest.v1 import enrolment_service_pb2 as guest_pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.identity import Role
from trove_grpc.server import build_internal_server
from trove_grpc.tls import IdentityDirectory

DOCS = Path(__file__).resolve().parents[3] / "docs" / "how-to"
TIMEOUT = 20.0
TENANT = "t"


def commands(name: str) -> list[str]:
    """The commands of a runbook, in order."""
    text = (DOCS / f"disaster-{name}.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


class Instances(conductor_rpc.InstanceServiceServicer):
    """A conductor as far as a rebuild asks it."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def ListInstanceViews(self, request: Any, context: Any) -> Any:
        return conductor_pb.ListInstanceViewsResponse(
            instances=[
                resources_pb2.InstanceView(id=each, tenant_id=TENANT, addresses=["127.0.0.2"])
                for each in self.ids
            ]
        )


@dataclasses.dataclass
class Guest:
    instance_id: str
    key: ec.EllipticCurvePrivateKey
    chain_pem: bytes


class Site:
    """One machine with an issuer, another with a conductor, and guests behind a gateway."""

    def __init__(self, root: Path) -> None:
        self.kept = root / "kept"
        self.kept.mkdir()
        self.installation = Installation(root)
        self.usual = self.installation.config.read_text()
        self.instances = Instances()
        self.port = 0
        self.conductor = ""
        self.instance = ""
        self.started = 0

    async def run(self, line: str) -> str:
        """Run one documented command; starts or stops the issuer as the text around it says."""
        if "--socket" in line:
            self.start()
        elif "backup" not in line:
            self.stop()
        words = [self._filled(word) for word in shlex.split(line)]
        if words[0] == "trove-pki":
            words = [sys.executable, "-m", "pki", *words[1:]]
        done = await asyncio.to_thread(
            subprocess.run, words, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout

    def start(self) -> None:
        if not self._is_running():
            self.port = self.installation.start()
            self.started += 1

    def stop(self) -> None:
        if self._is_running():
            self.installation.end()

    async def refuses_to_start(self, why: str) -> None:
        with pytest.raises(AssertionError, match=why):
            await asyncio.to_thread(self.installation.start)
        assert self.installation.process is not None
        assert self.installation.process.wait(20) == 7

    def settings(self, more: str = "") -> None:
        self.stop()
        self.installation.config.write_text(self.usual + more)

    async def identity(self, role: Role) -> IdentityDirectory:
        directory = IdentityDirectory(self.installation.root / f"{role}-{self.started}")
        if not directory.exists():
            await enrolment.enrol_service(self.installation.socket, role, "localhost", directory)
        return directory

    @contextlib.asynccontextmanager
    async def stub(self, role: Role) -> AsyncIterator[rpc.IssuerServiceStub]:
        identity = await self.identity(role)
        channel = PeerChannel(
            [f"127.0.0.1:{self.port}"], identity=identity, server_role=Role.ISSUER
        )
        async with channel:
            yield channel.stub(rpc.IssuerServiceStub)

    async def register(self) -> tuple[str, str]:
        """A new instance, known to issuer and conductor; its id and a token."""
        instance_id = str(uuid.uuid4())
        self.instances.ids.append(instance_id)
        async with self.stub(Role.TASKMANAGER) as stub:
            await call(
                stub.RegisterSubject,
                pb.RegisterSubjectRequest(instance_id=instance_id, tenant_id=TENANT),
                timeout=TIMEOUT,
            )
            answer = await call(
                stub.MintToken, pb.MintTokenRequest(instance_id=instance_id), timeout=TIMEOUT
            )
        return instance_id, answer.token

    async def enrol(self, instance_id: str, token: str) -> Guest:
        key = new_key()
        async with self.stub(Role.GATEWAY) as stub:
            answer = await call(
                stub.EnrolGuest,
                pb.EnrolGuestRequest(
                    enrolment=guest_pb.EnrolRequest(
                        token=token, csr_der=csr_der(key), instance_id=instance_id
                    ),
                    peer_address="ipv4:192.0.2.1:1",
                ),
                timeout=TIMEOUT,
            )
        return Guest(instance_id, key, answer.enrolment.chain_pem)

    async def new_guest(self) -> Guest:
        return await self.enrol(*await self.register())

    async def renew(self, guest: Guest) -> None:
        async with self.stub(Role.GATEWAY) as stub:
            answer = await call(
                stub.RenewGuest,
                pb.RenewGuestRequest(certificate_pem=guest.chain_pem, csr_der=csr_der(new_key())),
                timeout=TIMEOUT,
            )
        assert answer.chain_pem

    async def recover(self, guest: Guest) -> None:
        """Come back with an expired certificate."""
        while True:
            try:
                await self._recover(guest)
            except ConflictError as error:
                if error.reason != "NOT_EXPIRED":
                    raise
            else:
                return

    async def _recover(self, guest: Guest) -> None:
        request = csr_der(new_key())
        async with self.stub(Role.GATEWAY) as stub:
            answer = await call(
                stub.GetRecoveryNonce,
                pb.GetRecoveryNonceRequest(
                    nonce=guest_pb.GetNonceRequest(instance_id=guest.instance_id)
                ),
                timeout=TIMEOUT,
            )
            nonce = answer.nonce.nonce
            signature = proof.sign(key_pem(guest.key), nonce, request, guest.instance_id)
            await call(
                stub.RecoverGuest,
                pb.RecoverGuestRequest(
                    recovery=guest_pb.RecoverRequest(
                        instance_id=guest.instance_id,
                        expired_chain_pem=guest.chain_pem,
                        nonce=nonce,
                        csr_der=request,
                        signature=signature,
                    ),
                    peer_address="ipv4:192.0.2.1:1",
                ),
                timeout=TIMEOUT,
            )

    def lose_database(self) -> None:
        for path in self.installation.root.glob("pki.db*"):
            path.unlink()

    def _is_running(self) -> bool:
        process = self.installation.process
        return process is not None and process.poll() is None

    def _filled(self, word: str) -> str:
        for name, value in (
            ("$STATE", str(self.installation.root)),
            ("$KEPT", str(self.kept)),
            ("$CONDUCTOR", self.conductor),
            ("$INSTANCE", self.instance),
        ):
            word = word.replace(name, value)
        assert "$" not in word
        return word


@pytest.fixture
def machine(private_directory: Path) -> Iterator[Site]:
    site = Site(private_directory)
    assert site.installation.init().returncode == 0
    yield site
    site.stop()


@pytest.fixture
async def site(machine: Site) -> AsyncIterator[Site]:
    machine.start()
    identity = await machine.identity(Role.CONDUCTOR)
    conductor = build_internal_server(
        "127.0.0.1:0",
        identity=identity,
        register=lambda server: conductor_rpc.add_InstanceServiceServicer_to_server(
            machine.instances, server
        ),
        services=(),
    )
    await conductor.start()
    machine.conductor = f"127.0.0.1:{conductor.port}"
    yield machine
    await conductor.stop(0)


async def deny(site: Site, guest: Guest) -> None:
    line = f"deny instance {guest.instance_id} --reason INC-7 --yes"
    await asyncio.to_thread(site.installation.ask, *shlex.split(line))


async def sleeping_guest(site: Site) -> Guest:
    """One that is off, with a certificate that ends before it is back."""
    site.settings("guest_lifetime = 2\n")
    site.start()
    guest = await site.new_guest()
    site.settings()
    site.start()
    return guest


async def test_database_lost(site: Site) -> None:
    export, rebuild, verify = commands("database-lost")
    off, on, denied = await sleeping_guest(site), await site.new_guest(), await site.new_guest()
    await deny(site, denied)
    await site.run(export)
    site.stop()
    site.lose_database()
    await site.refuses_to_start("the database is empty")
    assert site.installation.init().returncode == 7
    told = await site.run(rebuild)
    assert "instances registered" in told
    await site.run(verify)
    await site.renew(on)
    await site.recover(off)
    with pytest.raises(TroveError) as caught:
        await site.renew(denied)
    assert caught.value.reason == "CERTIFICATE_DENIED"


async def test_old_backup_restored(site: Site) -> None:
    create, check, export, restore, rebuild, verify = commands("old-backup")
    off, on, denied = await sleeping_guest(site), await site.new_guest(), await site.new_guest()
    await site.run(create)
    await site.run(check)
    later = await site.new_guest()
    await deny(site, denied)
    await site.run(export)
    site.stop()
    site.lose_database()
    assert "trove-pki rebuild" in await site.run(restore)
    await site.refuses_to_start("rolled back")
    await site.run(rebuild)
    await site.run(verify)
    for guest in (on, later):
        await site.renew(guest)
    await site.recover(off)
    with pytest.raises(TroveError) as caught:
        await site.renew(denied)
    assert caught.value.reason == "CERTIFICATE_DENIED"


async def test_all_lost(site: Site) -> None:
    *moves, init, token = commands("all-lost")
    guest = await site.new_guest()
    site.stop()
    site.lose_database()
    shutil.rmtree(site.installation.root / "custody")
    shutil.rmtree(site.installation.root / "secret")
    assert site.installation.init().returncode == 7
    for line in (*moves, init):
        await site.run(line)
    site.start()
    with pytest.raises(TroveError):
        await site.renew(guest)
    async with site.stub(Role.TASKMANAGER) as stub:
        await call(
            stub.RegisterSubject,
            pb.RegisterSubjectRequest(instance_id=guest.instance_id, tenant_id=TENANT),
            timeout=TIMEOUT,
        )
    site.instance = guest.instance_id
    printed = await site.run(token)
    word = next(each for each in printed.split() if each.startswith("trv1."))
    await site.renew(await site.enrol(guest.instance_id, word))


async def test_root_lost(site: Site) -> None:
    *before, show = commands("root-lost")
    guest = await site.new_guest()
    site.stop()
    (site.installation.root / "custody" / "root-g1.key").unlink()
    site.start()
    for line in before:
        await site.run(line)
    async with asyncio.timeout(60):
        while len((shown := await site.run(show)).splitlines()) < 3:
            continue  # each look is a process of its own: it takes its time
    assert "ACTIVE" in shown
    await site.renew(guest)
    assert "the key root-g1 is lost" in site.installation.log.read_text()


def test_every_runbook_is_here() -> None:
    tested = {"database-lost", "old-backup", "root-lost", "all-lost"}
    assert {path.stem.removeprefix("disaster-") for path in DOCS.glob("disaster-*.md")} == tested
