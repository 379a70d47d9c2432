"""Settings of the guest gateway."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from trove_grpc.errors import InvalidRequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Durations are seconds in TOML."""

    identity: Path  # directory with key, chain and bundle; renewed by the gateway itself
    enrolment_listen: str  # "address:port", server-authenticated TLS, guests' first contact
    guest_listen: str  # "address:port", mutual TLS for guest agents alone
    internal_listen: str  # "address:port", mutual TLS for services and operators
    conductor: tuple[str, ...]  # "host:port" of the conductors
    issuer: tuple[str, ...]  # "host:port" of the issuers

    gateway_id: str = ""  # name in the session directory; empty: the identity's host part
    advertise: str = ""  # where others dial the internal listener; empty: internal_listen
    log_level: str = "INFO"
    metrics_listen: str = ""  # loopback "address:port"; empty: no metrics port

    # Guests' streams.
    # From stream open to Hello: bounds idle openers.
    hello_timeout: dt.timedelta = dt.timedelta(seconds=10)
    # The conductor's answer, waiting for a slot included.
    open_timeout: dt.timedelta = dt.timedelta(seconds=10)
    openings: int = 64  # OpenSession calls at once: what a reconnect storm may cost the conductor
    # A guest that does not read for so long is let go.
    write_stall: dt.timedelta = dt.timedelta(seconds=30)
    connects_per_minute: int = 60  # per instance; a crash loop costs a handshake each time
    streams_per_instance: int = 8  # a stream whose guest reads nothing lives with its connection
    messages_per_second: int = 50  # per stream; above it we read more slowly, nothing is lost
    # Least; grows with the number of streams.
    reconnect_window: dt.timedelta = dt.timedelta(seconds=0.5)
    # What the gateway and the conductor behind it admit in stride; sizes the window.
    # Measured: docs/reference/fleet.md.
    reconnects_per_second: float = 100.0
    # How often guests are told of a window that has changed by a quarter.
    window_notices: dt.timedelta = dt.timedelta(seconds=5)
    # In which the older stream of another boot must answer.
    clone_ping: dt.timedelta = dt.timedelta(seconds=3)
    # No destructive command after a refused clone.
    clone_suspicion: dt.timedelta = dt.timedelta(seconds=60)

    # Bounded queues; gateway/guest/session.py and uplink.py say what happens when one is full.
    command_limit: int = 32  # unanswered commands per guest
    unacknowledged_limit: int = 64  # changes and backup updates per guest without acknowledgement
    pending_reports_limit: int = 20_000  # the same over all guests
    closings_limit: int = 20_000  # ended sessions the conductor has yet to hear of

    # Uplink.
    # Heartbeats of this time share one message.
    heartbeat_flush: dt.timedelta = dt.timedelta(seconds=0.1)
    uplink_retry: dt.timedelta = dt.timedelta(seconds=5)  # longest pause between attempts
    conductor_timeout: dt.timedelta = dt.timedelta(seconds=5)  # unary calls

    # Identity.
    # The issuer tells of denials at once; asking is for when it cannot: half of the 2 s in which
    # a denial must act, and slowly while it tells.
    denial_poll: dt.timedelta = dt.timedelta(seconds=1)
    denial_backstop: dt.timedelta = dt.timedelta(seconds=10)
    # Without a word of the issuer's its stream is dead; it speaks every 3 s.
    watch_silence: dt.timedelta = dt.timedelta(seconds=10)
    # Older than this, identity work is refused.
    denial_stale: dt.timedelta = dt.timedelta(seconds=30)
    # Which guests are here, told to the issuer: changes of this time share a message,
    sighting_flush: dt.timedelta = dt.timedelta(seconds=2)
    # and everybody is told again after this.
    sighting_refresh: dt.timedelta = dt.timedelta(seconds=60)
    sightings_limit: int = 20_000  # of each instance the newest
    issuer_timeout: dt.timedelta = dt.timedelta(seconds=10)
    renewals_per_hour: int = 60  # per instance; 72 h leaves need one in 36 h, tests many more
    enrolments_at_once: int = 64  # calls to the issuer in progress
    # Calls that may wait for one of those: a whole fleet may come back in one moment.
    enrolments_waiting: int = 4096
    failed_enrolments_per_minute: int = 30  # per address, failures only: many guests share one

    # Connections one address may hold without a session, of 2,000 to the enrolment port and 16,000
    # to the guest port. Guests may share an address: set it far lower where none do.
    connections_per_address: int = 1024

    # Refusals are told to the issuer's audit so often, those of one caller and reason as one.
    refusal_report: dt.timedelta = dt.timedelta(seconds=10)

    # Leaving.
    drain_grace: dt.timedelta = dt.timedelta(seconds=5)  # from Goodbye to the end of every stream

    def __post_init__(self) -> None:
        if self.reconnects_per_second <= 0:
            raise InvalidRequestError(
                "reconnects_per_second must be above 0: it is what the gateway can admit"
            )
