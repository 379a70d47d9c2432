"""An engine that exists in memory: for agents by the thousand and for crashes to order.

Held to tests/integration/guestagent/test_engine_contract.py together with the real one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from guestagent.engines import (
    LIFE_ACTIONS,
    Capabilities,
    DatabaseAuthority,
    EngineCertificate,
    EngineSpec,
    Probe,
    Process,
)
from guestagent.engines.accounts import ACTIONS
from guestagent.engines.parameters import check, text_of
from tests.fakes.accounts import FakeAccounts
from tests.fakes.certificates import TestAuthority
from trove_grpc.errors import ConflictError, InvalidRequestError, UnavailableError
from trove_grpc.gen.common.v1 import engine_pb2, trust_pb2
from trove_grpc.tls import anchors

STATIC = frozenset({"static", "deadly"})


class FakeInclude:
    """Settings in memory; with `deadly` among them the engine does not start."""

    def __init__(self) -> None:
        self.present: dict[str, str] = {}
        self.good: dict[str, str] = {}

    async def is_on_trial(self) -> bool:
        return self.present != self.good

    async def keep(self) -> None:
        self.good = dict(self.present)

    async def give_up(self) -> None:
        self.present = dict(self.good)


class FakeEngine:
    """Remembers what was asked of it."""

    capabilities = Capabilities(
        manager="fake",
        actions=LIFE_ACTIONS | ACTIONS,
        user_hosts=True,
    )

    def __init__(self) -> None:
        self.accounts = FakeAccounts()
        self.is_created = False
        self.is_running = False
        self.is_out_of_reach = False
        # How many starts fail from here on.
        self.failing_starts = 0
        # It starts and dies at once.
        self.dies_at_start = False
        # More memory than this and it does not start.
        self.most_memory_mib = 1 << 20
        self.memory_mib = 0  # as configured
        self.starts = 0
        self.stops = 0
        self.serial = "e1"
        self.databases: set[str] = set()
        self.users: set[str] = set()
        self.log: list[str] = []
        self.include = FakeInclude()

    def check(
        self,
        spec: EngineSpec,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        if not spec.listen_addresses:
            raise InvalidRequestError("prepare names no address to listen on")
        try:
            [ipaddress.ip_address(address) for address in spec.listen_addresses]
        except ValueError as error:
            raise InvalidRequestError(f"listen address: {error}") from error
        if any(not named.name for named in (*databases, *users)):
            raise InvalidRequestError("an empty name")

    async def create(self, spec: EngineSpec, authority: DatabaseAuthority) -> None:
        self._reach("create")
        self.is_created = True
        await self.write_settings(spec)

    async def write_settings(self, spec: EngineSpec) -> None:
        self._reach("write_settings")
        self.memory_mib = spec.memory_mib

    async def start(self, spec: EngineSpec) -> None:
        self._reach("start")
        if self.is_running:
            return
        if self.memory_mib > self.most_memory_mib:
            raise ConflictError("out of memory", reason="ENGINE_START_FAILED")
        if self.failing_starts:
            self.failing_starts -= 1
            raise ConflictError("it does not start", reason="ENGINE_START_FAILED")
        if "deadly" in self.include.present:
            raise ConflictError("it does not start: deadly", reason="ENGINE_START_FAILED")
        self.starts += 1
        self.is_running = not self.dies_at_start

    async def stop(self, spec: EngineSpec) -> None:
        self._reach("stop")
        self.stops += self.is_running
        self.is_running = False

    async def probe(self, spec: EngineSpec) -> Probe:
        self._reach("probe")
        if self.is_running:
            return Probe(process=Process.ANSWERING, version="1.0")
        return Probe(process=Process.GONE, reason="the process is gone")

    async def apply(
        self,
        spec: EngineSpec,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        self._reach("apply")
        self.databases |= {database.name for database in databases}
        self.users |= {user.name for user in users}

    async def configure(
        self, spec: EngineSpec, parameters: Sequence[engine_pb2.Parameter]
    ) -> list[str]:
        self._reach("configure")
        check(parameters, forbidden=re.compile("^port$"))
        values = {parameter.name: text_of(parameter) for parameter in parameters}
        if "refused" in values:
            raise ConflictError("the engine refuses: refused", reason="ENGINE_COMMAND_FAILED")
        self.include.present = values
        good = self.include.good
        return sorted(name for name in STATIC if values.get(name) != good.get(name))

    async def tend(self, spec: EngineSpec, authority: DatabaseAuthority) -> engine_pb2.VolumeUsage:
        self._reach("tend")
        return engine_pb2.VolumeUsage(total_bytes=100, used_bytes=1)

    async def certificate_serial(self) -> str:
        self._reach("certificate_serial")
        return self.serial if self.is_created else ""

    def _reach(self, what: str) -> None:
        self.log.append(what)
        if self.is_out_of_reach:
            raise UnavailableError("the engine's user cannot be reached")


class FakeDatabaseAuthority:
    """Signs with the test's authority for an engine on these addresses."""

    def __init__(self, authority: TestAuthority, addresses: Sequence[str]) -> None:
        self.authority = authority
        self.addresses = addresses
        # Whether the present certificate is to be replaced at the next look.
        self.supersedes = False

    async def issue(self, csr_der: bytes) -> EngineCertificate:
        self.supersedes = False
        chain = self.authority.engine_chain(csr_der, ip_addresses=self.addresses)
        return EngineCertificate(chain_pem=chain, root_pem=self.roots())

    def roots(self) -> bytes:
        return anchors(self.authority.bundle(), {trust_pb2.AUTHORITY_KIND_DATABASE_ROOT})

    def is_superseded(self, chain_pem: bytes) -> bool:
        return self.supersedes
