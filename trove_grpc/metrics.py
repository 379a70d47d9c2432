"""Prometheus metrics every process has, and the loopback port they are read from."""

from __future__ import annotations

import ipaddress

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from trove_grpc.errors import InvalidRequestError, UnavailableError

RPC_SECONDS = Histogram(
    "trove_rpc_seconds",
    "Time spent in RPC handlers, seconds",
    ["method", "code"],
    buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60),
)
RPC_IN_PROGRESS = Gauge("trove_rpc_in_progress", "RPC handlers running now", ["method"])
RPC_REFUSED = Counter(
    "trove_rpc_refused_total", "Calls refused before their handler ran", ["reason"]
)
# Refused handshakes end inside gRPC's core, which tells nobody: handshakes that no connection with
# a call follows are what can be seen of them.
TLS_HANDSHAKES = Counter(
    "trove_tls_handshakes_total", "TLS handshakes begun, also those that fail", ["listener"]
)
DENIED_RPCS = Counter(
    "trove_pki_denied_rpcs_total",
    "Calls refused although their certificate verifies: expired since the handshake, or denied",
    ["reason", "role"],
)


def serve_metrics(listen: str) -> None:
    """Serve /metrics on "address:port"; refuses any address but loopback ("" serves nothing)."""
    if not listen:
        return
    host, _, port = listen.rpartition(":")
    if not ipaddress.ip_address(host).is_loopback:
        raise InvalidRequestError(
            f"metrics_listen {listen!r} is not a loopback address; scrape through a local agent"
        )
    try:
        start_http_server(int(port), addr=host)
    except OSError as error:
        raise UnavailableError(
            f"cannot serve metrics on {listen}: {error.strerror}", reason="PORT_TAKEN"
        ) from error
