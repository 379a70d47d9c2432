"""What the conductor counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

REPORTS = Counter(
    "trove_conductor_reports_total",
    "Guests' reports taken in, by what became of them",
    ["kind", "result"],
)
SESSIONS_OPENED = Counter("trove_conductor_sessions_opened_total", "Session epochs granted")
GUESTS_HEARD = Gauge(
    "trove_conductor_guests_heard",
    "Guests whose presence this process holds, silent ones included until they are forgotten",
)
DATABASE_WAITING = Gauge(
    "trove_conductor_database_waiting", "Calls that wait for the database or are in it"
)
DATABASE_LIMIT = Gauge(
    "trove_conductor_database_waiting_limit",
    "How many may wait before the next call is refused as OVERLOADED",
)
OPERATIONS = Counter("trove_conductor_operations_total", "Operations that ended", ["state"])
