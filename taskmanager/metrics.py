"""What the task manager counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

STUCK = Counter("trove_flows_stuck_total", "Flows that ended without settling their operation")
FLOWS_RUNNING = Gauge("trove_flows_running", "Flows running in this process now", ["kind"])
FLOWS_ENDED = Counter(
    "trove_flows_ended_total",
    "Flows that ended in this process: done, failed (undone) or broken",
    ["kind", "result"],
)
OPERATIONS_OPEN = Gauge(
    "trove_operations_open",
    "Operations not yet settled, at the last sweep, by the state of their flow",
    ["kind", "flow"],
)
SWEEPS = Counter("trove_sweeps_total", "Comparisons of operations with flows", ["result"])
