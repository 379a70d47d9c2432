"""MariaDB's option files: the server's, and the administrator's way in."""

from __future__ import annotations

import ipaddress
import re
from importlib import resources
from pathlib import Path
from string import Template

from guestagent.engines import EngineSpec

ADMINISTRATOR = "os_admin"  # as Trove's
_MIN_MEMORY_MIB = 128
_CREDENTIAL = "password = "
# What the agent answers for, and what names files, programs or libraries of the machine.
FORBIDDEN = re.compile(
    r"^(ssl_|tls_|require_secure|bind_address|port$|extra_|socket$|basedir|datadir|tmpdir|"
    r"secure_|local_infile|skip_|init_connect|init_file|pid_|plugin_|symbolic_links|"
    r"lower_case_|old_passwords|proxy_|wsrep_|gtid_|server_id|rpl_|slave_|master_|relay_|"
    r"replicate_|log_bin|log_error|binlog_|debug|feedback|core_|read_only|super_|"
    r"innodb_(read_only|force_recovery|page_size|undo|data_|temp_data|fast_shutdown)|"
    r"strict_password|default_password|simple_password|disconnect_on_expired|user$|chroot)|"
    r"(_file|_dir|_path|_directory|_home_dir|_basename)$"
)
_LINE = re.compile(r"^([a-z_]+) = (\S+)$", re.MULTILINE)
_SIZE = re.compile(r"\A([0-9]+)([KMG]?)\Z")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def server_options(
    spec: EngineSpec,
    *,
    data_directory: Path,
    temporary_directory: Path,
    socket: Path,
    certificate: Path,
    include: Path,
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
            include=str(include),
            listen_addresses=",".join(str(ipaddress.ip_address(a)) for a in spec.listen_addresses),
            port=str(spec.port),
            max_connections=str(min(500, max(50, memory // 8))),
            buffer_pool_mib=str(memory // 3),
            log_file_mib=str(log_file_mib(spec)),
        )
        .encode()
    )


def sizes(options: bytes) -> dict[str, str]:
    """Our own values of parameters that tenants may set too, as SET GLOBAL takes them."""
    found = {}
    for name, text in _LINE.findall(options.decode()):
        if match := _SIZE.match(text):
            found[name] = str(int(match[1]) * _UNITS[match[2]])
    return found


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
