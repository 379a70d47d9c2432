"""Settings of the REST API."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from gateway.rest.auth.settings import KeystoneSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What `python -m gateway.rest` may be told; durations are seconds in TOML."""

    # Directory of this process's certificate (role api) and trust bundle.
    identity: Path
    # Addresses ("host:port") of the conductors, the task managers and the issuers.
    conductor: tuple[str, ...]
    taskmanager: tuple[str, ...]
    issuer: tuple[str, ...]
    # "address:port" to serve HTTP on; port 0 takes any. 8779 is Trove's registered port.
    listen: str = "127.0.0.1:8779"
    # Who may call. "keystone" asks for tokens; "none" lets everybody in and therefore listens on
    # loopback only.
    auth: str = "none"
    # How often requests of one address may fail to authenticate within a minute, in this process;
    # 0: as often as they like. Many callers may share an address.
    failed_authentications: int = 100
    # Addresses or networks of reverse proxies whose X-Forwarded-For is believed. Behind a proxy
    # that is not named here, all callers share its address.
    trusted_proxies: tuple[str, ...] = ()
    # For auth = "keystone": where it is, and how far its word is kept.
    keystone: KeystoneSettings | None = None
    # YAML with rules in oslo.policy's syntax over the defaults; followed as it changes.
    policy_file: Path | None = None
    # Web pages that may call from a browser, "https://host[:port]" or "*"; needs authentication.
    cors_allowed_origins: tuple[str, ...] = ()
    # How long a browser may keep what it was told about that.
    cors_max_age: dt.timedelta = dt.timedelta(seconds=3600)
    # While this file exists the health check answers 503, so that a load balancer looks elsewhere.
    healthcheck_disable_file: Path | None = None
    # Region shown on instances and the only one that may be asked for.
    region: str = "RegionOne"
    # "https://host[:port]" for links when a proxy stands in front; empty: the request's Host.
    public_endpoint: str = ""
    # Largest request body, bytes. Trove's own is 112 KiB (oslo); module contents will need more.
    max_body_bytes: int = 114_688
    # How long a client may take to send its body, and a request to be answered.
    body_timeout: dt.timedelta = dt.timedelta(seconds=30)
    request_timeout: dt.timedelta = dt.timedelta(seconds=10)
    # How long a guest may take to answer while a client waits (databases, users, root); Trove's
    # own agents get 15 s for a look and 600 s for a change.
    guest_timeout: dt.timedelta = dt.timedelta(seconds=30)
    # How long a create or delete waits for the task manager to hear of it. Best effort: the
    # task manager's own sweep is what guarantees the start.
    wake_timeout: dt.timedelta = dt.timedelta(seconds=0.5)
    # How long open requests may go on after SIGTERM.
    drain_timeout: dt.timedelta = dt.timedelta(seconds=5)
    log_level: str = "INFO"
    # Loopback "address:port" for /metrics; empty serves none.
    metrics_listen: str = ""
