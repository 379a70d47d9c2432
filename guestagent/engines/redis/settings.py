"""redis.conf from its template."""

from __future__ import annotations

import ipaddress
from importlib import resources
from pathlib import Path
from string import Template

from guestagent.engines import EngineSpec

_MIN_MEMORY_MIB = 64
_MEMORY_SHARE = 0.6


def redis_conf(
    spec: EngineSpec,
    *,
    directory: Path,
    certificate: Path,
    acl_file: Path,
    socket: Path,
) -> bytes:
    """The server's settings; raises ValueError for a listen address that is none."""
    text = resources.files(__package__).joinpath("redis.conf.template").read_text()
    addresses = " ".join(str(ipaddress.ip_address(address)) for address in spec.listen_addresses)
    return (
        Template(text)
        .substitute(
            listen_addresses=addresses,
            port=str(spec.port),
            certificate=_quoted(certificate),
            socket=_quoted(socket),
            acl_file=_quoted(acl_file),
            directory=_quoted(directory),
            max_memory_mib=str(int(max(spec.memory_mib, _MIN_MEMORY_MIB) * _MEMORY_SHARE)),
        )
        .encode()
    )


def _quoted(path: Path) -> str:
    """As Redis reads its settings: in quotes, with backslash escapes."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
