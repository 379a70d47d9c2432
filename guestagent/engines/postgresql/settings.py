"""PostgreSQL's configuration files from their templates."""

from __future__ import annotations

import ipaddress
from importlib import resources
from pathlib import Path
from string import Template

from guestagent.engines import EngineSpec
from trove_grpc.errors import InvalidRequestError

ADMINISTRATOR = "os_admin"  # as Trove's
# sockaddr_un.sun_path less its NUL; PostgreSQL appends "/.s.PGSQL.<port>".
_MAX_SOCKET_PATH = 107
_MIN_MEMORY_MIB = 128


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


def check_socket_directory(directory: Path, port: int) -> None:
    """Raise InvalidRequestError where the kernel would cut the socket's path."""
    path = directory / f".s.PGSQL.{port}"
    if len(str(path).encode()) > _MAX_SOCKET_PATH:
        raise InvalidRequestError(
            f"run_directory is too long: {path} has more than {_MAX_SOCKET_PATH} bytes, the limit "
            f"of a UNIX socket; choose a shorter one",
            subject=str(directory),
        )


def _render(name: str, **values: str) -> bytes:
    text = resources.files(__package__).joinpath(name).read_text()
    return Template(text).substitute(values).encode()
