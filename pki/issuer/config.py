"""Settings of the issuer and of `trove-pki init`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path

from pki.custody.settings import BarbicanSettings
from pki.profiles import MAX_TRUST_DOMAIN
from trove_grpc import databases
from trove_grpc.errors import InvalidRequestError

_TRUST_DOMAIN = re.compile(r"\A[a-z0-9][a-z0-9.-]*\Z")
# sockaddr_un holds 108 bytes with the final NUL.
_MAX_SOCKET_PATH = 107

FILES, BARBICAN = "files", "barbican"
_SECOND = dt.timedelta(seconds=1)
_MINUTE = dt.timedelta(minutes=1)
_HOUR = dt.timedelta(hours=1)
_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Durations are seconds in TOML."""

    identity: Path  # directory of the issuer's own certificate, which it gives itself
    operator_socket: Path  # UNIX socket; whoever may enter its directory is an operator
    database_url: str  # the issuer's own schema, e.g. "sqlite:////var/lib/trove/issuer/pki.db"
    custody_directory: Path  # encrypted CA keys as files; mode 0700, the issuer's user
    passphrase_file: Path  # decrypts them; keep it on another medium than their backup
    custody: str = FILES  # where the CA keys are: "files" or "barbican"
    barbican: BarbicanSettings | None = None  # a table; also needed to migrate there
    # File of mode 0600 with the database user's password; read for every new connection.
    database_password_file: Path | None = None
    listen: str = "127.0.0.1:0"  # internal mutual TLS; port 0 takes any
    host: str = "localhost"  # names the issuer's own certificate
    trust_domain: str = "local.trove"  # names everything; cannot change after `init`
    log_level: str = "INFO"
    metrics_listen: str = ""  # loopback "address:port"; empty serves none

    guest_lifetime: dt.timedelta = 72 * _HOUR  # a long weekend without a control plane
    service_lifetime: dt.timedelta = 7 * _DAY  # renewed at a third
    operator_lifetime: dt.timedelta = 8 * _HOUR  # a working day; also the most one may ask for
    engine_lifetime: dt.timedelta = 90 * _DAY  # clients of databases must never notice
    intermediate_lifetime: dt.timedelta = 365 * _DAY
    root_lifetime: dt.timedelta = 3650 * _DAY
    authority_margin: dt.timedelta = _HOUR  # a leaf ends this long before its issuer

    token_lifetime: dt.timedelta = _HOUR  # instance builds are slow; also the most to ask for
    token_retry_window: dt.timedelta = 10 * _MINUTE  # a lost reply may be asked for again
    token_max_failures: int = 5  # then the token is locked
    superseded_grace: dt.timedelta = 15 * _MINUTE  # an old certificate lives on after a renewal
    enrol_attempts_per_minute: int = 30  # failed ones, from one address
    # Rows of the audit in which one gateway tells what it refused; twice as many at once.
    refusal_rows_per_minute: int = 60
    renewals_per_hour: int = 6  # for each instance; raised by itself where lives are short
    recovery_grace: dt.timedelta = 30 * _DAY  # an expired guest may come back for so long
    nonce_lifetime: dt.timedelta = _MINUTE  # from GetNonce to Recover
    # Signed statements about the audit, for the day the database is lost or rolled back: put it
    # where neither happens with the database. Default: "audit-checkpoints.jsonl" beside custody.
    checkpoint_file: Path | None = None
    checkpoint_rows: int = 1000  # a checkpoint at the latest after so many records
    checkpoint_interval: dt.timedelta = 5 * _MINUTE  # and so long after the last one, if there are
    audit_verify_interval: dt.timedelta = _DAY  # the whole chain is recomputed so often
    denial_poll: dt.timedelta = _SECOND  # other issuers on this database
    census_interval: dt.timedelta = _MINUTE  # how often the fleet is counted for metrics
    watch_interval: dt.timedelta = 3 * _SECOND  # sign of life to those who watch
    watchers_limit: int = 256  # gateways and services that may watch at once
    # Not reported for so long a guest counts as gone; its gateway repeats every minute.
    sighting_lifetime: dt.timedelta = 5 * _MINUTE

    rotation_poll: dt.timedelta = 2 * _SECOND  # how often rotations are looked at
    rotation_lease: dt.timedelta = _MINUTE  # another issuer goes on when one is silent so long
    rotation_soak: dt.timedelta = (
        _MINUTE  # two heartbeats between "everybody knows" and the switch
    )
    rotation_spread: dt.timedelta = 30 * _MINUTE  # shortest time over which holders renew
    rotation_rate: float = 20.0  # renewals a second to plan for; longer spreads for large fleets
    rotation_ack_share: float = 0.99  # of guests online that must hold the bundle; others listed
    rotation_error_share: float = 0.01  # of renewals; a rotation pauses itself beyond
    rotation_error_minimum: int = 5  # fewer failures never pause one
    rotation_canary_share: float = 0.01  # of guests online that renew first
    rotation_canary_wait: dt.timedelta = 10 * _MINUTE  # for the first of them to have renewed
    rotation_bundle_poll: dt.timedelta = 5 * _SECOND  # of services, while a rotation is open
    service_liveness: dt.timedelta = (
        10 * _MINUTE
    )  # a service silent so long is listed, not awaited
    key_hold: dt.timedelta = 7 * _DAY  # a retired key is kept so long before it is destroyed

    def __post_init__(self) -> None:
        databases.check(
            "database_url", self.database_url, password_file=self.database_password_file
        )
        self._check_custody()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            seconds = value.total_seconds() if isinstance(value, dt.timedelta) else value
            if isinstance(seconds, (int, float)) and seconds <= 0:
                raise InvalidRequestError(f"{field.name} must be more than 0")
        if not _TRUST_DOMAIN.match(self.trust_domain) or len(self.trust_domain) > MAX_TRUST_DOMAIN:
            raise InvalidRequestError(
                f"trust_domain {self.trust_domain!r} must be lower-case letters, digits, dots and "
                f"dashes, at most {MAX_TRUST_DOMAIN}"
            )
        if len(str(self.operator_socket).encode()) > _MAX_SOCKET_PATH:
            raise InvalidRequestError(
                f"operator_socket {self.operator_socket} is longer than {_MAX_SOCKET_PATH} bytes; "
                "choose a shorter directory"
            )
        for name in ("guest", "service", "operator", "engine"):
            leaf: dt.timedelta = getattr(self, f"{name}_lifetime")
            if leaf + self.authority_margin > self.intermediate_lifetime:
                raise InvalidRequestError(
                    f"{name}_lifetime plus authority_margin is longer than intermediate_lifetime"
                )
        if self.intermediate_lifetime + self.authority_margin > self.root_lifetime:
            raise InvalidRequestError(
                "intermediate_lifetime plus authority_margin is longer than root_lifetime"
            )
        if self.token_retry_window > self.token_lifetime:
            raise InvalidRequestError("token_retry_window is longer than token_lifetime")
        self._check_rotation()

    def _check_rotation(self) -> None:
        for name in ("ack", "error", "canary"):
            share: float = getattr(self, f"rotation_{name}_share")
            if share > 1:
                raise InvalidRequestError(f"rotation_{name}_share is a share: at most 1")
        if self.rotation_poll >= self.rotation_lease:
            raise InvalidRequestError(
                "rotation_poll is not shorter than rotation_lease: a lease would end unused"
            )
        if self.rotation_bundle_poll >= self.service_liveness:
            raise InvalidRequestError(
                "rotation_bundle_poll is not shorter than service_liveness: every service would "
                "pass for silent"
            )

    def _check_custody(self) -> None:
        if self.custody not in (FILES, BARBICAN):
            raise InvalidRequestError(f"custody {self.custody!r} must be {FILES} or {BARBICAN}")
        if self.custody == BARBICAN and self.barbican is None:
            raise InvalidRequestError(
                f'custody = "{BARBICAN}" needs a table [barbican] that says where it is'
            )

    @property
    def checkpoints_path(self) -> Path:
        """Where checkpoints are exported to."""
        beside = self.custody_directory.absolute().parent / "audit-checkpoints.jsonl"
        return self.checkpoint_file or beside

    @property
    def certificates_per_hour(self) -> int:
        """How many certificates an instance may get in an hour.

        A guest renews at half life; four times that leaves room for retries.
        """
        return max(self.renewals_per_hour, int(8 * (_HOUR / self.guest_lifetime)))
