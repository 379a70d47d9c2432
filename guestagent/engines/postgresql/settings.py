"""PostgreSQL's configuration files from their templates."""

from __future__ import annotations

import ipaddress
import re
from importlib import resources
from pathlib import Path
from string import Template

from guestagent.engines import EngineSpec

ADMINISTRATOR = "os_admin"  # as Trove's
_MIN_MEMORY_MIB = 128
# What the agent answers for, and what names files, programs or libraries of the machine.
FORBIDDEN = re.compile(
    r"^(listen_addresses|port|bonjour|unix_socket|ssl|hba_|ident_|krb_|gss_|password_|"
    r"authentication_|scram_|data_|config_|external_|include|dynamic_library_path|"
    r"local_preload|session_preload|shared_preload|jit_provider|allow_|ignore_|zero_damaged|"
    r"log_destination|log_line_prefix|log_timezone|log_file|log_directory|logging_collector|"
    r"syslog|event_source|archive_|restore_|recovery_|primary_|promote_|hot_standby|"
    r"cluster_name|fsync$|full_page_writes$|stats_temp|temp_tablespaces|"
    r"backtrace_functions|debug_|trace_|developer)|_(command|file|directory|library|libraries)$"
)


def postgresql_conf(spec: EngineSpec, socket_directory: Path) -> bytes:
    """The server's settings; memory as PostgreSQL's manual advises (a quarter shared)."""
    memory = max(spec.memory_mib, _MIN_MEMORY_MIB)
    return _render(
        "postgresql.conf.template",
        listen_addresses=",".join(str(ipaddress.ip_address(a)) for a in spec.listen_addresses),
        port=str(spec.port),
        socket_directory=str(socket_directory).replace("'", "''"),
        max_connections=str(min(500, max(50, memory // 8))),
        shared_buffers_mib=str(memory // 4),
        effective_cache_mib=str(memory * 3 // 4),
        maintenance_work_mem_mib=str(max(16, memory // 16)),
    )


def pg_hba_conf() -> bytes:
    return _render("pg_hba.conf.template", administrator=ADMINISTRATOR)


def socket_path(directory: Path, port: int) -> Path:
    return directory / f".s.PGSQL.{port}"


def _render(name: str, **values: str) -> bytes:
    text = resources.files(__package__).joinpath(name).read_text()
    return Template(text).substitute(values).encode()
