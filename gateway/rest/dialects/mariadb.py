"""MariaDB's names, hosts and character sets."""

from __future__ import annotations

import ipaddress
import re

from gateway.rest.dialects.rules import Dialect
from gateway.rest.passwords import mysql_native_password_verifier

_MAX_DATABASE = 64  # characters, NAME_CHAR_LEN
_MAX_USER = 80  # characters; the grant tables of every version we offer hold more
_LAST_OF_PLANE_0 = 0xFFFF
_CHARACTER_SET = (
    r"armscii8|ascii|big5|binary|cp125[0167]|cp85[02]|cp866|cp932|dec8|eucjpms|euckr|gb2312|gbk"
    r"|geostd8|greek|hebrew|hp8|keybcs2|koi8[ru]|latin[1257]|macce|macroman|sjis|swe7|tis620"
    r"|ucs2|ujis|utf16|utf16le|utf32|utf8|utf8mb3|utf8mb4"
)
_COLLATION = re.compile(rf"binary|({_CHARACTER_SET})_[a-z0-9_]{{1,40}}", re.ASCII)
# An address whose last parts are open: 10.1.%
_PREFIX = re.compile(r"([0-9]{1,3}\.){1,3}%", re.ASCII)


def _name_problem(name: str, limit: int) -> str:
    if len(name) > limit:
        return f"is longer than {limit} characters"
    # The system tables are utf8mb3.
    if any(ord(character) > _LAST_OF_PLANE_0 for character in name):
        return "has a character beyond Unicode's first plane, which MariaDB cannot keep in a name"
    return "ends with a space, which MariaDB drops" if name.endswith(" ") else ""


def _host_problem(host: str) -> str:
    """Addresses only: host names would make logins depend on somebody's DNS."""
    address, slash, mask = host.partition("/")
    try:
        if slash:
            # MariaDB compares bit by bit, so that the address must be its network's own.
            ipaddress.IPv4Network((address, mask), strict=True)
            valid = mask.count(".") == 3  # noqa: PLR2004  "/24" it does not know
        else:
            valid = bool(_PREFIX.fullmatch(host) or ipaddress.ip_address(host))
    except ValueError:
        valid = False
    return "" if valid else "is no address, such as 10.0.0.7, 10.0.0.% or 10.0.0.0/255.255.0.0"


def _fits(character_set: str, collation: str) -> bool:
    prefix = collation.lower().partition("_")[0]
    aliases = {"utf8": "utf8mb3"}
    wanted = character_set.lower()
    return aliases.get(prefix, prefix) == aliases.get(wanted, wanted)


MARIADB = Dialect(
    verifier=mysql_native_password_verifier,
    database_problem=lambda name: _name_problem(name, _MAX_DATABASE),
    user_problem=lambda name: _name_problem(name, _MAX_USER),
    has_hosts=True,
    host_problem=_host_problem,
    # Trove's list; "#mysql50#" is how the server writes names it cannot decode.
    reserved_databases=("mysql", "information_schema", "performance_schema", "sys"),
    reserved_users=("os_admin", "root", "mysql", "mariadb.sys", "public"),
    reserved_ignore_case=True,
    is_character_set=lambda name: re.fullmatch(_CHARACTER_SET, name.lower()) is not None,
    is_collation=lambda name: _COLLATION.fullmatch(name.lower()) is not None,
    fits=_fits,
)
