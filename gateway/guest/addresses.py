"""Where a peer is."""

from __future__ import annotations

from urllib.parse import unquote


def peer_address(peer: str) -> str:
    """The host of a gRPC peer ("ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1")."""
    host = unquote(peer).partition(":")[2].rpartition(":")[0]
    return host.strip("[]")
