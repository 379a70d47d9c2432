"""One module for each engine, behind the Engine protocol.

An engine is driven by its own command-line programs, as its own user, and keeps nothing in
memory: what it is meant to be stands in the agent's record, what it is stands on disk.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from guestagent.engines.accounts import Accounts
from guestagent.engines.spec import EngineSpec
from trove_grpc.errors import InvalidRequestError, UnsupportedError
from trove_grpc.gen.common.v1 import engine_pb2

__all__ = [
    "Accounts",
    "Capabilities",
    "DatabaseAuthority",
    "Engine",
    "EngineCertificate",
    "EngineSpec",
    "Probe",
    "Process",
]

# What is done to every engine as a whole, by Command.action field name.
LIFE_ACTIONS = frozenset({"prepare", "start", "stop", "restart", "ping", "resize", "configure"})


class Process(enum.Enum):
    """What a probe found."""

    GONE = enum.auto()
    STARTING = enum.auto()  # runs, does not take queries yet
    BLOCKED = enum.auto()  # runs, does not answer as it should
    ANSWERING = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do; anything else is refused before it is tried."""

    manager: str
    # Command kinds, by Command.action field name.
    actions: frozenset[str]
    # Whether a user is valid from some hosts only (MariaDB's 'name'@'host').
    user_hosts: bool
    # Whether it has databases by name, and users besides the administrator.
    databases: bool = True
    users: bool = True

    def check(
        self,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        """Raise UnsupportedError for what this kind of engine does not have at all."""
        if databases and not self.databases:
            raise UnsupportedError(f"{self.manager} has no databases by name", subject="databases")
        if users and not self.users:
            raise UnsupportedError(f"{self.manager} has no users to create", subject="users")
        limited = [user for user in users if user.host not in ("", "%")]
        if limited and not self.user_hosts:
            raise InvalidRequestError(
                f"user {limited[0].name!r} is limited to host {limited[0].host!r}, which users of "
                f"{self.manager} cannot be; leave the host out",
                subject=limited[0].name,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One look at an engine."""

    process: Process
    reason: str = ""  # why it is not ANSWERING
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCertificate:
    """What the control plane signed for an engine's listener, PEM."""

    chain_pem: bytes
    root_pem: bytes


class DatabaseAuthority(Protocol):
    """Who signs for engines' listeners, as an engine needs to know it."""

    async def issue(self, csr_der: bytes) -> EngineCertificate:
        """Turn a CSR into a certificate; waits for the control plane as long as its caller."""

    def roots(self) -> bytes:
        """PEM of what clients verify with: during a rotation the old root and the new one."""

    def is_superseded(self, chain_pem: bytes) -> bool:
        """Whether another generation signs now and this certificate's turn has come."""


class Include(Protocol):
    """The tenant's own settings, which an engine must prove to start with."""

    async def is_on_trial(self) -> bool:
        """Whether the engine has not yet started with what stands there now."""

    async def keep(self) -> None:
        """The engine has started with it and answered."""

    async def give_up(self) -> None:
        """Go back to what the engine last started with."""


class Engine(Protocol):
    """One database engine of this guest.

    Everything is idempotent and safe to repeat after a kill at any point. Raises TroveError;
    UnavailableError when the engine's user cannot be reached, which says nothing about the engine.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def accounts(self) -> Accounts | None:
        """What is inside it; None for an engine whose capabilities do not name it."""

    @property
    def include(self) -> Include: ...

    def check(
        self,
        spec: EngineSpec,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        """Raise InvalidRequestError or UnsupportedError before anything is touched."""

    async def create(self, spec: EngineSpec, authority: DatabaseAuthority) -> None:
        """Make the data directory, its settings, certificate and admin credential."""

    async def write_settings(self, spec: EngineSpec) -> None:
        """Write its settings; it reads them when it starts."""

    async def start(self, spec: EngineSpec) -> None:
        """Return when it runs (it may still be recovering).

        Raises ConflictError with the engine's own last words when it does not stay up.
        """

    async def stop(self, spec: EngineSpec) -> None:
        """Stop cleanly, without waiting for clients to leave."""

    async def probe(self, spec: EngineSpec) -> Probe:
        """Look at the process and ask it a question."""

    async def apply(
        self,
        spec: EngineSpec,
        databases: Sequence[engine_pb2.DatabaseSpec],
        users: Sequence[engine_pb2.UserSpec],
    ) -> None:
        """Create what is missing and set verifiers and grants, on a running engine."""

    async def configure(
        self, spec: EngineSpec, parameters: Sequence[engine_pb2.Parameter]
    ) -> list[str]:
        """Give a running engine the tenant's settings, instead of all it had of them before.

        Returns the names that wait for the next start. Raises InvalidRequestError for what this
        agent does not let through, ConflictError with the engine's words for what the engine
        refuses; the earlier settings are then in force.
        """

    async def tend(self, spec: EngineSpec, authority: DatabaseAuthority) -> engine_pb2.VolumeUsage:
        """Now and then: bound the log, renew the certificate in time, measure the volume."""

    async def certificate_serial(self) -> str:
        """Serial (hex) of the certificate its listener shows; empty when that is not known."""
