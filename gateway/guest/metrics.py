"""What the guest gateway counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SESSIONS = Gauge("trove_gateway_sessions", "Guest streams open now")
SESSIONS_ENDED = Counter("trove_gateway_sessions_ended_total", "Guest streams ended", ["reason"])
STREAMS_KILLED = Counter(
    "trove_pki_streams_killed_total",
    "Guest streams ended because their certificate expired or was denied",
    ["reason"],
)
CLOCK_SKEW = Histogram(
    "trove_pki_clock_skew_seconds",
    "How far guests' clocks are from the gateway's, as each says in its Hello",
    buckets=(0.1, 0.5, 1, 5, 30, 120, 600, 3600, 86_400),
)
DROPPED = Counter("trove_gateway_dropped_total", "Messages not forwarded", ["what"])
ENROLMENTS = Counter(
    "trove_gateway_enrolments_total",
    "First requests and recoveries of guests passed on to the issuer",
    ["kind", "result"],
)
CONNECTIONS_CUT = Counter(
    "trove_gateway_connections_cut_total",
    "Connections of an address that held too many without a session",
    ["listener"],
)
COMMANDS_WAITING = Gauge(
    "trove_gateway_commands_waiting", "Commands to guests without an answer, all guests together"
)
UPLINK_HEARTBEATS = Gauge(
    "trove_gateway_uplink_heartbeats", "Guests whose latest heartbeat waits for the next flush"
)
UPLINK_LIMIT = Gauge(
    "trove_gateway_uplink_pending_limit", "How many of trove_gateway_uplink_pending there may be"
)
UPLINK_CONNECTED = Gauge("trove_gateway_uplink_connected", "Whether the Report stream is up")
UPLINK_PENDING = Gauge(
    "trove_gateway_uplink_pending", "Changes and backup updates without acknowledgement"
)
