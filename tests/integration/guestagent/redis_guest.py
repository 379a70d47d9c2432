"""A guest whose engine is Redis, as its tenant and as its agent reach it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
from pathlib import Path

from tests.integration.guestagent.conftest import PASSWORD, Machine
from trove_grpc.gen.common.v1 import engine_pb2, trust_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb

REDIS_PORT = 6379
REDIS_VERSION = "7.0"


def user(name: str, password: str = PASSWORD) -> engine_pb2.UserSpec:
    return engine_pb2.UserSpec(
        name=name, verifier="#" + hashlib.sha256(password.encode()).hexdigest()
    )


class RedisMachine(Machine):
    """A guest whose engine is Redis."""

    def config(self, **changes: object):
        return super().config(**{"manager": "redis", **changes})

    def action(self, *users: engine_pb2.UserSpec) -> pb.PrepareAction:
        return pb.PrepareAction(
            manager="redis",
            version=REDIS_VERSION,
            listen_addresses=[self.address],
            port=REDIS_PORT,
            memory_mib=512,
            users=users,
        )

    def servers(self) -> list[int]:
        """Pids of what works in the engine's directory."""
        found = []
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (path / "cwd").readlink() == self.root / "engine/data/redis":
                    found.append(int(path.name))
        return found

    def kill(self) -> None:
        for pid in self.servers():
            os.kill(pid, signal.SIGKILL)

    def root_file(self) -> Path:
        root = self.root / "root.crt"
        kind = trust_pb2.AUTHORITY_KIND_DATABASE_ROOT
        root.write_bytes(self.gateway.authority.signers[kind].pem)
        return root

    def redis_cli(
        self, *command: str, name: str = "ada", password: str = PASSWORD, stdin: str = ""
    ) -> str:
        """As a tenant connects: from outside, by address, with the database root."""
        way = ["--tls", "--cacert", str(self.root_file()), "-h", self.address]
        way += ["-p", str(REDIS_PORT), "--user", name]
        return self._run(way, command, password=password, stdin=stdin)

    def admin(self, *command: str) -> str:
        """As the agent connects."""
        password = (self.root / "engine/data/admin.secret").read_text()
        way = ["-s", str(self.root / "engine/run/redis.sock"), "--user", "os_admin"]
        return self._run(way, command, password=password)

    def _run(
        self, way: list[str], command: tuple[str, ...], *, password: str, stdin: str = ""
    ) -> str:
        done = subprocess.run(
            ["redis-cli", *way, "--no-auth-warning", *command],
            input=stdin,
            env={"PATH": os.environ["PATH"], "REDISCLI_AUTH": password},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return (done.stdout + done.stderr).strip()
