"""MariaDB's option files: the server's, and the administrator's way in."""

from __future__ import annotations

import ipaddress
from importlib import resources
from pathlib import Path
from string import Template

from guestagent.engines import EngineSpec

ADMINISTRATOR = "os_admin"  # as Trove's
_MIN_MEMORY_MIB = 128
_CREDENTIAL = "password = "


def server_options(
    spec: EngineSpec,
    *,
    data_directory: Path,
    temporary_directory: Path,
    socket: Path,
    certificate: Path,
) -> bytes:
    """The server's settings; a third of the memory caches pages, connections take the rest."""
    memory = max(spec.memory_mib, _MIN_MEMORY_MIB)
    text = resources.files(__package__).joinpath("mariadb.cnf.template").read_text()
    return (
        Template(text)
        .substitute(
            data_directory=_quoted(data_directory),
            temporary_directory=_quoted(temporary_directory),
            socket=_quoted(socket),
            certificate=_quoted(certificate),
            listen_addresses=",".join(str(ipaddress.ip_address(a)) for a in spec.listen_addresses),
            port=str(spec.port),
            max_connections=str(min(500, max(50, memory // 8))),
            buffer_pool_mib=str(memory // 3),
            log_file_mib=str(log_file_mib(spec)),
        )
        .encode()
    )


def log_file_mib(spec: EngineSpec) -> int:
    """The redo log, made at initialisation already so that the first start need not resize it."""
    return min(96, max(16, spec.memory_mib // 16))


def administrator_options(socket: Path, password: str) -> bytes:
    return (
        f"[client]\nuser = {ADMINISTRATOR}\n{_CREDENTIAL}{password}\n"
        f"socket = {_quoted(socket)}\nprotocol = socket\nskip-ssl\n"
    ).encode()


def password_of(options: bytes) -> str:
    """The password in `administrator_options`."""
    lines = options.decode().splitlines()
    return next(line for line in lines if line.startswith(_CREDENTIAL)).removeprefix(_CREDENTIAL)


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
