"""What the guest gateway counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

SESSIONS = Gauge("trove_gateway_sessions", "Guest streams open now")
SESSIONS_ENDED = Counter("trove_gateway_sessions_ended_total", "Guest streams ended", ["reason"])
CLONES_SUSPECTED = Counter(
    "trove_pki_clone_suspected_total", "Streams refused because another boot of the guest answers"
)
DENIALS_AGE = Gauge("trove_pki_denylist_age_seconds", "Time since the last good denial poll")
DROPPED = Counter("trove_gateway_dropped_total", "Messages not forwarded", ["what"])
UPLINK_CONNECTED = Gauge("trove_gateway_uplink_connected", "Whether the Report stream is up")
UPLINK_PENDING = Gauge(
    "trove_gateway_uplink_pending", "Changes and backup updates without acknowledgement"
)
