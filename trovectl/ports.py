"""Ports of the control plane: chosen once, outside the range the kernel hands out, then kept.

A port from the ephemeral range may be taken by any outgoing connection while we are down.
"""

from __future__ import annotations

import ipaddress
import json
import random
import socket
from collections.abc import Sequence
from pathlib import Path

from trove_grpc.errors import InvalidRequestError, UnavailableError
from trove_grpc.tls import write_atomically
from trovectl import procfs

_RANGE = (20000, 30000)
_ATTEMPTS = 200
LOOPBACK = "127.0.0.1"


def split(listen: str) -> tuple[str, int]:
    """Split "127.0.0.1:8779"; raises InvalidRequestError for anything else."""
    host, _, port = listen.rpartition(":")
    try:
        ipaddress.IPv4Address(host)
        return host, int(port)
    except ValueError as error:
        raise InvalidRequestError(f"{listen!r} is not an IPv4 address:port") from error


def is_free(address: str, port: int) -> bool:
    """Whether a listener could have it now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier run that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def load_or_choose(path: Path, names: Sequence[str]) -> dict[str, int]:
    """The saved ports; names without one get a free one, and the result is saved."""
    try:
        saved = {str(name): int(port) for name, port in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        saved = {}
    except (ValueError, AttributeError) as error:
        raise UnavailableError(f"{path} is not readable ({error}); remove it") from error
    chosen = dict(saved)
    for name in names:
        if name not in chosen:
            chosen[name] = choose(taken=set(chosen.values()))
    if chosen != saved:
        write_atomically(path, json.dumps(chosen, indent=1).encode(), mode=0o600)
    return {name: chosen[name] for name in names}


def choose(*, taken: set[int], address: str = LOOPBACK) -> int:
    """A free port that nothing in `taken` has."""
    for _ in range(_ATTEMPTS):
        port = random.randrange(*_RANGE)  # noqa: S311  any will do
        if port not in taken and is_free(address, port):
            return port
    raise UnavailableError(f"no free TCP port on {address} between {_RANGE[0]} and {_RANGE[1]}")


def check_free(name: str, address: str, port: int) -> None:
    """Raise UnavailableError that names the process which has the port."""
    if is_free(address, port):
        return
    raise UnavailableError(
        f"{name}: port {port} on {address} is taken by {procfs.holder(address, port)}; stop that, "
        "or choose another port (`--rest-listen`; others: ports.json in the state directory)",
        reason="PORT_TAKEN",
        subject=f"{address}:{port}",
    )
