"""Settings of the task manager."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path

from trove_grpc import databases
from trove_grpc.errors import InvalidRequestError

# DBOS knows no other; MariaDB may still hold the conductor's and the issuer's state.
FLOW_BACKENDS = (databases.SQLITE, databases.POSTGRESQL)
DEFAULT_LEASE = dt.timedelta(seconds=15)
_SHORTEST_LEASE = dt.timedelta(seconds=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlavorSettings:
    """One size the local driver offers. The cloud driver will ask Nova instead."""

    id: str
    name: str
    ram_mib: int
    vcpus: int = 1
    disk_gib: int = 0  # 0: the volume's size is all there is


def _default_flavors() -> tuple[FlavorSettings, ...]:
    return (
        FlavorSettings(id="1", name="db.tiny", ram_mib=512),
        FlavorSettings(id="2", name="db.small", ram_mib=1024),
        FlavorSettings(id="3", name="db.medium", ram_mib=2048, vcpus=2),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Each field: what it is, its unit, why its default is what it is."""

    # Directory of this process's identity.
    identity: Path
    # "address:port" of the internal listener.
    listen: str
    # "host:port" of the issuers and conductors; several are tried in turn.
    issuer: tuple[str, ...]
    conductor: tuple[str, ...]
    # Where flows are logged: sqlite:///<absolute path> on a disk of this machine, or
    # postgresql+psycopg://… without a password, for several task managers.
    flow_database_url: str
    # File of mode 0600 with the database user's password; read when the process starts.
    flow_database_password_file: Path | None = None
    # On PostgreSQL: how long an executor that stopped renewing still counts as alive. Its flows
    # wait that long; shorter than 15 s and a busy machine's live executors lose theirs.
    flow_lease: dt.timedelta = DEFAULT_LEASE
    # Name of this executor in the flow log; must stay the same over restarts, because a
    # restarted executor goes on with its own flows. Differs between task managers of one log.
    executor_id: str = "taskmanager-1"
    # Flows running at once; each is one coroutine, the guests' first boot is the real limit.
    flow_concurrency: int = 64
    # Compute driver; "local" asks the supervisor on its socket.
    compute: str = "local"
    supervisor_socket: Path | None = None
    # "host:port" of the guest gateways, as guests dial them.
    enrolment_endpoints: tuple[str, ...] = ()
    guest_endpoints: tuple[str, ...] = ()
    # How long a booted guest may take to open its session: a process starts in seconds, a VM in
    # about a minute.
    agent_deadline: dt.timedelta = dt.timedelta(seconds=60)
    # How long an engine may take to be prepared, and again to answer queries.
    engine_deadline: dt.timedelta = dt.timedelta(seconds=120)
    # How long a step waits for a control-plane process that is away before it fails: an outage of
    # ten minutes is to pass with room to spare.
    outage_deadline: dt.timedelta = dt.timedelta(minutes=15)
    # How often open operations are compared with flows; what Wake missed starts this late.
    sweep_interval: dt.timedelta = dt.timedelta(seconds=5)
    # How long an ended flow stays in the flow log; the conductor keeps its operation.
    flow_retention: dt.timedelta = dt.timedelta(days=7)
    # How long calls and flows may go on after a signal; flows resume after the next start.
    drain_timeout: dt.timedelta = dt.timedelta(seconds=5)
    flavors: tuple[FlavorSettings, ...] = field(default_factory=_default_flavors)
    log_level: str = "INFO"
    # "address:port" on loopback for /metrics; empty serves none.
    metrics_listen: str = ""

    def __post_init__(self) -> None:
        databases.check(
            "flow_database_url",
            self.flow_database_url,
            backends=FLOW_BACKENDS,
            password_file=self.flow_database_password_file,
        )
        if self.flow_lease < _SHORTEST_LEASE:
            raise InvalidRequestError(
                f"flow_lease must be at least {_SHORTEST_LEASE.total_seconds():g} seconds"
            )
        if self.compute != "local":
            raise InvalidRequestError(f"compute {self.compute!r} is unknown; use 'local'")
        if self.supervisor_socket is None:
            raise InvalidRequestError("compute 'local' needs supervisor_socket")
        if not self.enrolment_endpoints or not self.guest_endpoints:
            raise InvalidRequestError(
                "enrolment_endpoints and guest_endpoints must name a guest gateway each: "
                "guests are told to dial them"
            )
        for name in ("agent_deadline", "engine_deadline", "outage_deadline", "sweep_interval"):
            if getattr(self, name) <= dt.timedelta(0):
                raise InvalidRequestError(f"{name} must be more than 0 seconds")
        if len({flavor.id for flavor in self.flavors}) != len(self.flavors):
            raise InvalidRequestError("flavors: two have the same id")
