"""redis.conf from its template."""

from __future__ import annotations

import ipaddress
import re
from importlib import resources
from pathlib import Path
from string import Template

from guestagent.engines import EngineSpec

# What tenants may set, with the values of Redis 7.0's own redis.conf. CONFIG SET knows no
# default to go back to, so this is the whole list: a name that is not here is refused.
DEFAULTS = {
    "active-defrag-cycle-max": "25",
    "active-defrag-cycle-min": "1",
    "active-defrag-threshold-lower": "10",
    "active-defrag-threshold-upper": "100",
    "activedefrag": "no",
    "activerehashing": "yes",
    "appendfsync": "everysec",
    "auto-aof-rewrite-min-size": "67108864",
    "auto-aof-rewrite-percentage": "100",
    "busy-reply-threshold": "5000",
    "databases": "16",
    "dynamic-hz": "yes",
    "hash-max-listpack-entries": "512",
    "hash-max-listpack-value": "64",
    "hll-sparse-max-bytes": "3000",
    "hz": "10",
    "io-threads": "1",
    "latency-monitor-threshold": "0",
    "lazyfree-lazy-eviction": "no",
    "lazyfree-lazy-expire": "no",
    "lazyfree-lazy-server-del": "no",
    "lazyfree-lazy-user-del": "no",
    "lazyfree-lazy-user-flush": "no",
    "lfu-decay-time": "1",
    "lfu-log-factor": "10",
    "list-compress-depth": "0",
    "list-max-listpack-size": "-2",
    "maxclients": "10000",
    "maxmemory": "",  # by the flavor
    "maxmemory-policy": "noeviction",
    "maxmemory-samples": "5",
    "no-appendfsync-on-rewrite": "no",
    "notify-keyspace-events": "",
    "set-max-intset-entries": "512",
    "slowlog-log-slower-than": "10000",
    "slowlog-max-len": "128",
    "stream-node-max-bytes": "4096",
    "stream-node-max-entries": "100",
    "tcp-keepalive": "300",
    "timeout": "0",
    "tracking-table-max-keys": "1000000",
    "zset-max-listpack-entries": "128",
    "zset-max-listpack-value": "64",
}
FORBIDDEN = re.compile(rf"\A(?!(?:{'|'.join(DEFAULTS)})\Z)")
_MIN_MEMORY_MIB = 64
_MEMORY_SHARE = 0.6


def redis_conf(
    spec: EngineSpec,
    *,
    directory: Path,
    certificate: Path,
    acl_file: Path,
    socket: Path,
    include: Path,
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
            include=_quoted(include),
            max_memory_mib=str(max_memory_mib(spec)),
        )
        .encode()
    )


def max_memory_mib(spec: EngineSpec) -> int:
    return int(max(spec.memory_mib, _MIN_MEMORY_MIB) * _MEMORY_SHARE)


def defaults(spec: EngineSpec) -> dict[str, str]:
    """What the server has without the tenant, of what tenants may set."""
    return DEFAULTS | {"maxmemory": str(max_memory_mib(spec) << 20)}


def _quoted(path: Path) -> str:
    """As Redis reads its settings: in quotes, with backslash escapes."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
