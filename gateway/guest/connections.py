"""Cuts connections that one address holds without saying who it is.

gRPC bounds the connections of a listener, not those of a peer: one guest that opens them all would
keep every other guest out, and needs no identity for it. There is no hook in its Python interface
at accept, so the kernel's table is read: where one address holds more than its share without a
session, the surplus is shut down. Connections of live sessions are never cut, nor counted.

A firewall's limit by address does the same with less; this one needs no firewall.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.guest import metrics
from gateway.guest.addresses import peer_address
from trove_grpc import process

log = logging.getLogger(__name__)

_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_ESTABLISHED = "01"
# We look at least so often, and whenever so many handshakes have begun: what an attacker can open
# between two looks stays below what a listener takes.
_INTERVAL = 1.0
_HANDSHAKES = 256
_PAUSE = 0.02  # seconds at least between two looks, which cost milliseconds
_FIELDS_BEFORE_INODE = 9


@dataclass(frozen=True, slots=True)
class Share:
    """What one address may hold of a listener's connections."""

    listener: str
    most: int


@dataclass(frozen=True, slots=True)
class _Connection:
    port: int  # ours
    host: str
    peer_port: int
    inode: int

    @property
    def peer(self) -> str:
        return f"{self.host}:{self.peer_port}"


class ConnectionWarden:
    """Watches ports of this process; `kept` names the peers that have a session."""

    def __init__(self, *, kept: Callable[[], Collection[str]]) -> None:
        self._kept = kept
        self._shares: dict[int, Share] = {}
        self._begun = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()

    def watch(self, port: int, share: Share) -> None:
        self._shares[port] = share

    def handshake_began(self) -> None:
        """Called by gRPC's threads, for each connection."""
        self._begun += 1
        if self._begun % _HANDSHAKES == 0 and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`."""
        self._loop = asyncio.get_running_loop()
        try:
            while not await process.wait_or_timeout(stop, _PAUSE):
                await process.wait_or_timeout(self._wake, _INTERVAL)
                self._wake.clear()
                self.sweep()
        finally:
            self._loop = None

    def sweep(self) -> int:
        """Cut what is too much; how many connections that were."""
        surplus = self._surplus()
        if not surplus:
            return 0
        handles = _handles()
        cut = 0
        for connection in surplus:
            handle = handles.get(connection.inode)
            if handle is not None and _shut(handle, connection):
                cut += 1
                listener = self._shares[connection.port].listener
                metrics.CONNECTIONS_CUT.labels(listener).inc()
        hosts = sorted({connection.host for connection in surplus})
        log.warning("cut %d connections without a session, of %s", cut, ", ".join(hosts[:10]))
        return cut

    def _surplus(self) -> list[_Connection]:
        by_host: dict[tuple[int, str], list[_Connection]] = defaultdict(list)
        kept = self._kept()
        for connection in self._established():
            if connection.peer not in kept:
                by_host[connection.port, connection.host].append(connection)
        return [
            connection
            for (port, _), held in by_host.items()
            for connection in held[self._shares[port].most :]
        ]

    def _established(self) -> Iterator[_Connection]:
        for table in _TABLES:
            with contextlib.suppress(FileNotFoundError), table.open() as lines:
                next(lines)  # the heading
                for line in lines:
                    fields = line.split()
                    port = int(fields[1].rpartition(":")[2], 16)
                    if fields[3] == _ESTABLISHED and port in self._shares:
                        host, _, peer_port = fields[2].rpartition(":")
                        yield _Connection(
                            port,
                            _address(host),
                            int(peer_port, 16),
                            int(fields[_FIELDS_BEFORE_INODE]),
                        )


def peer_name(peer: str) -> str:
    """A gRPC peer ("ipv4:127.0.0.1:5", "ipv6:%5B::1%5D:5") as this module writes it."""
    return f"{peer_address(peer)}:{peer.rpartition(':')[2]}"


def _address(text: str) -> str:
    """An address of the kernel's table: words in the machine's own byte order."""
    data = b"".join(
        int(text[start : start + 8], 16).to_bytes(4, sys.byteorder)
        for start in range(0, len(text), 8)
    )
    address = ipaddress.ip_address(data)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _handles() -> dict[int, int]:
    """This process's open files by inode."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found[os.fstat(int(path.name)).st_ino] = int(path.name)
    return found


def _shut(handle: int, connection: _Connection) -> bool:
    """Shut a connection down; gRPC sees its end and closes it.

    The handle may have become another file since: a copy of it is looked at before it is shut.
    """
    try:
        with socket.socket(fileno=os.dup(handle)) as copy:
            host, port = copy.getpeername()[:2]
            mapped = getattr(ipaddress.ip_address(host), "ipv4_mapped", None)
            if (str(mapped or host), port) != (connection.host, connection.peer_port):
                return False
            copy.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False  # gone by itself
    return True
