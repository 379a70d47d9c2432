"""Settings of the conductor."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path

from trove_grpc import databases
from trove_grpc.errors import InvalidRequestError

# An API process waits for a slice for up to a second, which counts as a part of its life.
_SHORTEST_SLICE_LIFETIME = dt.timedelta(seconds=2)
_LONGEST_SLICE_LIFETIME = dt.timedelta(seconds=60)
_UNLIMITED = -1
_LONGEST_PERSIST_INTERVAL = dt.timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """An installable version of a datastore."""

    name: str  # what tenants write, and what the guest agent installs by
    version: str = ""  # Trove's version number; empty: the name
    active: bool = True  # an inactive one can be shown but not chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Datastore:
    """A kind of database this installation offers."""

    name: str
    manager: str  # the engine the guest agent loads
    port: int  # the engine listens here: clients expect the standard port
    versions: tuple[Version, ...]
    default_version: str = ""  # by name; empty: a create must name one


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Limits of every tenant without limits of its own; -1 is unlimited. Trove's defaults."""

    instances: int = 10
    volumes: int = 40  # GiB, summed over instances
    ram: int = -1  # MiB, summed over instances
    backups: int = 50


# The rates there are, as `Rates` names their limits: a verb, or POST below /mgmt.
RATES = ("GET", "POST", "PUT", "DELETE", "MANAGE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Requests a minute of each tenant, by all API processes together; -1 is unlimited.

    The limits are Trove's.
    """

    get: int = 200
    post: int = 200
    put: int = 200  # and PATCH
    delete: int = 200
    manage: int = 200  # POST below /mgmt, which counts as POST too
    # Requests an API process may let through before it asks again. Larger ones mean fewer
    # writes, and more that lies unused with one process while another refuses.
    slice: int = 10
    # How long a slice is good; what is left of it then is free again.
    lifetime: dt.timedelta = dt.timedelta(seconds=5)

    def __post_init__(self) -> None:
        if self.slice < 1:
            raise InvalidRequestError("rates.slice must be at least 1")
        if not _SHORTEST_SLICE_LIFETIME <= self.lifetime <= _LONGEST_SLICE_LIFETIME:
            raise InvalidRequestError("rates.lifetime must be 2 to 60 seconds")
        for rate in RATES:
            if self.limit(rate) < _UNLIMITED:
                raise InvalidRequestError(
                    f"rates.{rate.lower()} must be at least 0, or -1 for unlimited"
                )

    def limit(self, rate: str) -> int:
        """Requests a minute of one of RATES."""
        limit: int = getattr(self, rate.lower())
        return limit


_POSTGRESQL = Datastore(
    name="postgresql",
    manager="postgresql",
    port=5432,
    versions=(Version(name="15"),),  # Debian 12's
    default_version="15",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting of the conductor; times are seconds in the file."""

    # Directory of this process's identity (key, certificates, trust bundle).
    identity: Path
    # SQLAlchemy URL, without a password. SQLite needs no server and allows one conductor;
    # PostgreSQL and MariaDB allow several.
    database_url: str
    # 32 random bytes that seal operation secrets; created at the first start. All conductors
    # of one database share it.
    sealing_key_file: Path
    # File of mode 0600 with the database user's password; read for every new connection.
    database_password_file: Path | None = None
    # "address:port" of the internal listener; port 0 takes any free one.
    listen: str = "127.0.0.1:0"
    # Addresses of the issuer, for renewing our own certificate. Empty: nobody renews it (tests).
    issuer: tuple[str, ...] = ()
    log_level: str = "INFO"
    # "address:port" on loopback for Prometheus; empty: none.
    metrics_listen: str = ""
    # How often guests are asked to report. Trove's default.
    heartbeat_interval: dt.timedelta = dt.timedelta(seconds=10)
    # A guest silent for longer is shown as failing. Trove's agent_heartbeat_expiry.
    presence_deadline: dt.timedelta = dt.timedelta(seconds=90)
    # A gateway that renews no more for this long has lost its sessions.
    gateway_lease: dt.timedelta = dt.timedelta(seconds=15)
    # Datastore of creates that name none; empty: they are refused.
    default_datastore: str = "postgresql"
    datastores: tuple[Datastore, ...] = (_POSTGRESQL,)
    quotas: Quotas = field(default_factory=Quotas)
    rates: Rates = field(default_factory=Rates)
    # Largest volume, GiB; -1 is unlimited. Trove's max_accepted_volume_size.
    max_volume_size: int = 10
    # Calls that may wait for the database at once; more are refused as overloaded.
    database_queue: int = 512
    # Threads that talk to the database: readers, and as many writers except on SQLite (one).
    database_threads: int = 4
    # How long ids of creates and of guests' reports are remembered.
    request_retention: dt.timedelta = dt.timedelta(days=7)
    # How long calls in progress may go on when the process stops.
    drain_timeout: dt.timedelta = dt.timedelta(seconds=5)

    def __post_init__(self) -> None:
        databases.check(
            "database_url", self.database_url, password_file=self.database_password_file
        )
        if self.presence_deadline < 2 * self.heartbeat_interval:
            raise InvalidRequestError(
                "presence_deadline must be at least twice heartbeat_interval, "
                "or one lost heartbeat makes a guest look dead"
            )
        names = {datastore.name for datastore in self.datastores}
        if self.default_datastore and self.default_datastore not in names:
            raise InvalidRequestError(
                f"default_datastore {self.default_datastore!r} is not among the datastores: "
                f"{', '.join(sorted(names)) or 'none'}"
            )
        for datastore in self.datastores:
            versions = {version.name for version in datastore.versions}
            if datastore.default_version and datastore.default_version not in versions:
                raise InvalidRequestError(
                    f"datastore {datastore.name!r}: default_version "
                    f"{datastore.default_version!r} is not among its versions"
                )

    @property
    def presence_persist_interval(self) -> dt.timedelta:
        """How old a persisted, unchanged heartbeat may get.

        A third of the deadline, so that a second conductor, which sees only the database, does
        not take a reporting guest for a silent one.
        """
        return min(_LONGEST_PERSIST_INTERVAL, self.presence_deadline / 3)
