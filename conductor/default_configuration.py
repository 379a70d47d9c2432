"""What the guest agent sets an engine to by itself: the answer to "what if I had no group?".

The agent's templates decide; a test holds these to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Values = Mapping[str, int | str | bool]


def default_configuration(manager: str, ram_mib: int) -> Values:
    """Empty for a manager this control plane does not know."""
    derive = _BY_MANAGER.get(manager)
    return derive(ram_mib) if derive else {}


def _mariadb(ram_mib: int) -> Values:
    memory = max(ram_mib, 128)
    return {
        "character_set_server": "utf8mb4",
        "collation_server": "utf8mb4_general_ci",
        "innodb_buffer_pool_size": f"{memory // 3}M",
        "innodb_log_file_size": f"{min(96, max(16, ram_mib // 16))}M",
        "log_warnings": 2,
        "max_connections": _connections(memory),
    }


def _postgresql(ram_mib: int) -> Values:
    memory = max(ram_mib, 128)
    return {
        "effective_cache_size": f"{memory * 3 // 4}MB",
        "maintenance_work_mem": f"{max(16, memory // 16)}MB",
        "max_connections": _connections(memory),
        "shared_buffers": f"{memory // 4}MB",
    }


def _redis(ram_mib: int) -> Values:
    return {
        "appendfsync": "everysec",
        "maxmemory": f"{int(max(ram_mib, 64) * 0.6)}mb",
        "maxmemory-policy": "noeviction",
    }


def _connections(memory_mib: int) -> int:
    return min(500, max(50, memory_mib // 8))


_BY_MANAGER: Mapping[str, Callable[[int], Values]] = {
    "mariadb": _mariadb,
    "postgresql": _postgresql,
    "redis": _redis,
}
