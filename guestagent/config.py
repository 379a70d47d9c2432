"""Settings of a guest agent. Written by whoever boots the guest."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

_SECOND = dt.timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One guest agent. Durations are seconds in TOML."""

    # Directory of the agent's key, chain and trust bundle; readable by the agent's user alone.
    identity: Path
    # Who we are. The control plane believes the certificate only; these are for enrolment.
    instance_id: str
    tenant_id: str
    # Which engine this guest is for, for example "postgresql".
    manager: str
    # One-time enrolment token; deleted once it has been turned into an identity.
    token_file: Path
    # "host:port" of the guest gateways. Several must be IP addresses.
    enrolment_endpoints: tuple[str, ...]
    guest_endpoints: tuple[str, ...]
    # The agent's own: command journal, what the engine is meant to be.
    state_directory: Path
    # The engine's own: its cluster, admin credential and log.
    data_directory: Path
    # The engine's socket; a socket's path has at most 107 bytes, so keep it short.
    run_directory: Path
    # The launcher's socket; empty: the agent is the engine's user and needs no launcher.
    launcher_socket: str = ""
    # Until the gateway says otherwise in its Welcome.
    heartbeat_interval: dt.timedelta = 10 * _SECOND
    reconnect_window: dt.timedelta = 2 * _SECOND
    # First and longest pause between attempts to connect; grows by 1.6, varied by half.
    reconnect_backoff: dt.timedelta = _SECOND
    reconnect_backoff_limit: dt.timedelta = 120 * _SECOND
    # How often the engine is asked whether it answers: the time a crash goes unnoticed.
    health_interval: dt.timedelta = 2 * _SECOND
    # Starts that fail, or that crash before `engine_stable_after`, before the agent gives up.
    engine_restart_limit: int = 5
    # A run of this length ends a series of crashes.
    engine_stable_after: dt.timedelta = 60 * _SECOND
    # First and longest pause between starts of a crashing engine.
    engine_restart_backoff: dt.timedelta = _SECOND
    engine_restart_backoff_limit: dt.timedelta = 60 * _SECOND
    # An engine's certificate whose authority signs no longer is replaced at a random moment within
    # this time, unless the gateway names a window.
    engine_renewal_spread: dt.timedelta = 300 * _SECOND
    # A change not acknowledged for this long is sent again on the same stream.
    resend_interval: dt.timedelta = 15 * _SECOND
    # Debian's layout: <directory>/<version>/bin.
    postgresql_directory: Path = Path("/usr/lib/postgresql")
    # <prefix>/sbin/mariadbd, <prefix>/bin/mariadb and mariadb-install-db.
    mariadb_prefix: Path = Path("/usr")
    # Holds redis-server and redis-cli, or Valkey's where only those are.
    redis_directory: Path = Path("/usr/bin")
    log_level: str = "INFO"
    # Loopback "address:port" for Prometheus; empty: none.
    metrics_listen: str = ""
