"""MariaDB's system variables: what a tenant's settings do to a running server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from guestagent.engines.mariadb.sql import quote_text
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2

_NUMERIC = ("INT", "DOUBLE")
# In strict mode a value out of range is an error; else the server takes the nearest it can.
_PROLOGUE = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES';\n"
_DEFAULT = "DEFAULT"
_QUERY = (
    "SELECT LOWER(VARIABLE_NAME), READ_ONLY, VARIABLE_TYPE, HEX(GLOBAL_VALUE) "
    "FROM information_schema.SYSTEM_VARIABLES WHERE VARIABLE_SCOPE <> 'SESSION ONLY' "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable of the running server."""

    name: str
    is_static: bool
    is_numeric: bool
    value: str


def query(names: Iterable[str]) -> str:
    listed = ", ".join(quote_text(name) for name in names) or "''"
    return _PROLOGUE + _QUERY + f"AND VARIABLE_NAME IN ({listed});\n"


def parse(output: bytes) -> dict[str, Variable]:
    """The answer to `query`; values in hexadecimal, so that none can look like a line's end."""
    found = {}
    for line in output.decode().splitlines():
        name, read_only, kind, value = line.split("\t")
        found[name] = Variable(
            name=name,
            is_static=read_only == "YES",
            is_numeric=any(word in kind for word in _NUMERIC),
            value="" if value == "NULL" else bytes.fromhex(value).decode(errors="replace"),
        )
    return found


def require_known(names: Iterable[str], known: Mapping[str, Variable]) -> None:
    for name in names:
        if name not in known:
            raise InvalidRequestError(f"MariaDB has no global variable {name}", subject=name)


def assign(name: str, value: str) -> str:
    """One statement; `value` is SQL already."""
    return f"SET GLOBAL {name} = {value};\n"


def script(statements: Iterable[str]) -> str:
    return _PROLOGUE + "".join(statements)


def literal(parameter: engine_pb2.Parameter, text: str) -> str:
    """A checked value in SQL."""
    is_number = parameter.WhichOneof("value") in ("integer", "number")
    return text if is_number else quote_text(text)


def present(variable: Variable) -> str:
    """What the server has now, in SQL."""
    if not variable.value:
        return _DEFAULT
    return variable.value if variable.is_numeric else quote_text(variable.value)


def default(variable: Variable, sizes: Mapping[str, str]) -> str:
    """What the server would have without the tenant, in SQL."""
    return sizes.get(variable.name, _DEFAULT)
