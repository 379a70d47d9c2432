"""`trove-pki` and `python -m pki.issuer` as an operator starts them, and kills them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pki.requests import csr_der, new_key
from tests.fakes.database_servers import KINDS
from tests.fakes.state_databases import ServerOf
from trove_grpc.client import PeerChannel, call
from trove_grpc.errors import TroveError
from trove_grpc.gen.guest.v1 import enrolment_service_pb2 as guest_pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory


class Installation:
    """A directory with an issuer's configuration, its commands, and its process."""

    def __init__(self, root: Path, *, more_settings: str = "", database_url: str = "") -> None:
        self.root = root
        self.socket = root / "run" / "operator.sock"
        self.config = root / "issuer.toml"
        self.log = root / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.config.write_text(
            f'identity = "{root}/identity"\n'
            f'operator_socket = "{self.socket}"\n'
            f'database_url = "{database_url or f"sqlite:///{root}/pki.db"}"\n'
            f"{more_settings}"
            f'custody_directory = "{root}/custody"\n'
            f'passphrase_file = "{root}/secret/passphrase"\n'
        )

    def pki(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pki", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def init(self) -> subprocess.CompletedProcess[str]:
        return self.pki("--output", "json", "init", "--config", str(self.config))

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.pki("--output", "json", *arguments, "--socket", str(self.socket))

    def start(self) -> int:
        """Start the issuer; returns its port."""
        with self.log.open("ab") as log:
            position = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pki.issuer", "--config", str(self.config)], stderr=log
            )
        ends = time.monotonic() + 30
        while time.monotonic() < ends and self.process.poll() is None:
            for line in self.log.read_bytes()[position:].decode().splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    message = json.loads(line)["message"]
                    if message.startswith("issuer serves on port "):
                        return int(message.split()[4])
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
        raise AssertionError(f"the issuer did not start: {self.log.read_text()}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def installation(private_directory: Path) -> Iterator[Installation]:
    installation = Installation(private_directory)
    yield installation
    if installation.process is not None and installation.process.poll() is None:
        installation.end(signal.SIGKILL)


def test_init_makes_six_authorities_once(installation: Installation) -> None:
    first, second = installation.init(), installation.init()
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(json.loads(first.stdout)) == 6
    assert json.loads(second.stdout) == []


@pytest.mark.parametrize("kind", KINDS)
def test_issuer_lives_in_a_server_s_database_with_its_password_in_a_file(
    private_directory: Path, database_servers: ServerOf, kind: str
) -> None:
    server = database_servers(kind)
    file = private_directory / "password"
    file.touch(mode=0o600)
    file.write_text("canary-password\n")
    installation = Installation(
        private_directory,
        database_url=server.protect(server.new_database(), "canary-password"),
        more_settings=f'database_password_file = "{file}"\n',
    )
    assert len(json.loads(installation.init().stdout)) == 6
    assert json.loads(installation.init().stdout) == []
    try:
        for number in (signal.SIGKILL, signal.SIGTERM):
            installation.start()
            assert len(json.loads(installation.ask("bundle", "show").stdout)) == 6
            installation.end(number)
    finally:
        assert installation.process is not None
        if installation.process.poll() is None:
            installation.end(signal.SIGKILL)
    assert "canary-password" not in installation.log.read_text()


def test_init_names_a_key_that_somebody_else_could_read(installation: Installation) -> None:
    installation.init()
    key = installation.root / "custody" / "guest-g1.key"
    key.chmod(0o644)
    again = installation.init()
    assert again.returncode == 7
    assert str(key) in again.stderr


def test_issuer_refuses_to_start_with_a_loose_key_and_says_which(
    installation: Installation,
) -> None:
    installation.init()
    (installation.root / "custody" / "service-g1.key").chmod(0o640)
    with pytest.raises(AssertionError, match=r"service-g1\.key is open to others"):
        installation.start()
    assert installation.process is not None
    assert installation.process.wait(20) == 7


def test_issuer_before_init_says_what_to_run(installation: Installation) -> None:
    with pytest.raises(AssertionError, match="trove-pki init"):
        installation.start()


def test_unknown_setting_is_a_usage_error(installation: Installation) -> None:
    installation.config.write_text(installation.config.read_text() + "colour = 1\n")
    assert installation.init().returncode == 2


def test_commands_without_an_issuer_are_unreachable(installation: Installation) -> None:
    assert installation.ask("certs", "list").returncode == 6


def test_operator_enrols_lists_shows_and_denies(installation: Installation) -> None:
    installation.init()
    installation.start()
    enrolled = installation.ask(
        *("service", "enrol", "--role", "api", "--host", "h", "--identity"),
        str(installation.root / "api"),
    )
    serial = json.loads(enrolled.stdout)[0]["serial"]
    issued = installation.ask(
        "operator", "issue", "--name", "ann", "--identity", str(installation.root / "ann")
    )
    assert json.loads(issued.stdout)[0]["spiffe_id"] == "spiffe://local.trove/operator/ann"
    listed = json.loads(installation.ask("certs", "list").stdout)
    assert {row["name"].rpartition(".trove/")[2] for row in listed} == {
        "service/issuer/localhost",
        "service/api/h",
        "operator/ann",
    }
    shown = installation.ask("bundle", "show", "--authority", "database-root", "--pem")
    assert shown.stdout.startswith("-----BEGIN CERTIFICATE-----")
    deny = ("deny", "serial", serial, "--reason", "test")
    assert installation.ask(*deny).returncode == 4
    assert installation.ask(*deny, "--yes").returncode == 0
    listed = json.loads(installation.ask("certs", "list").stdout)
    assert {row["serial"]: row["state"] for row in listed}[serial] == "DENIED"
    assert installation.end() == 0
    assert not installation.socket.exists()


async def test_guest_gets_its_certificate_though_the_issuer_is_killed_again_and_again(
    installation: Installation,
) -> None:
    """Killed at any moment, the issuer answers the same key with the same certificate."""
    installation.init()
    ports = [installation.start()]
    identities = {}
    for role in ("gateway", "taskmanager"):
        identities[role] = IdentityDirectory(installation.root / role)
        installation.ask(
            *("service", "enrol", "--role", role, "--host", "h", "--identity"),
            str(identities[role].root),
        )
    instance_id, key = str(uuid.uuid4()), new_key()

    async def ask(role: str, name: str, request: object):
        async with PeerChannel(
            [f"127.0.0.1:{ports[-1]}"], identity=identities[role], server_role=Role.ISSUER
        ) as channel:
            method = getattr(channel.stub(rpc.IssuerServiceStub), name)
            return await call(method, request, timeout=10, retry=True)

    await ask(
        "taskmanager",
        "RegisterSubject",
        pb.RegisterSubjectRequest(instance_id=instance_id, tenant_id="t"),
    )
    minted = await ask("taskmanager", "MintToken", pb.MintTokenRequest(instance_id=instance_id))
    request = pb.EnrolGuestRequest(
        enrolment=guest_pb.EnrolRequest(
            token=minted.token, csr_der=csr_der(key), instance_id=instance_id
        )
    )
    chains = set()
    for round_number in range(4):
        asking = asyncio.create_task(ask("gateway", "EnrolGuest", request))
        # From "before it heard" to "after it answered", in steps of a few milliseconds.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asking), 0.005 + 0.01 * round_number)
        assert installation.process is not None
        os.kill(installation.process.pid, signal.SIGKILL)
        await asyncio.to_thread(installation.process.wait)
        with contextlib.suppress(TroveError):
            chains.add((await asking).enrolment.chain_pem)
        ports.append(await asyncio.to_thread(installation.start))
    answer = await ask("gateway", "EnrolGuest", request)
    chains.add(answer.enrolment.chain_pem)
    assert len(chains) == 1
    listed = json.loads(installation.ask("certs", "list", "--subject", instance_id).stdout)
    assert len(listed) == 1
    secret = minted.token.rpartition(".")[2].encode()
    passphrase = (installation.root / "secret" / "passphrase").read_bytes().strip()
    for path in installation.root.rglob("*"):
        if path.is_file() and path.name != "passphrase":
            content = path.read_bytes()
            assert secret not in content, path
            assert passphrase not in content, path
