"""What an engine calls a legal name, which names are its own, and how it keeps passwords."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from gateway.rest.passwords import scram_sha_256_verifier
from trove_grpc.errors import UnsupportedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Rules of one engine, as far as a request can be judged by them."""

    max_name_bytes: int
    reserved_databases: tuple[str, ...]
    reserved_users: tuple[str, ...]
    reserved_user_prefixes: tuple[str, ...]
    # Whether users may be limited to hosts they connect from.
    scopes_users_by_host: bool
    is_character_set: Callable[[str], bool]
    is_collation: Callable[[str], bool]
    verifier: Callable[[str], str]


# Encodings a PostgreSQL server may use (documentation, table 24.3), without what it ignores in
# names: case and everything but letters and digits.
_ENCODING = re.compile(
    r"euc(cn|jp|jis2004|kr|tw)|iso8859[5-8]|koi8[ru]|latin([1-9]|10)|muleinternal|sqlascii"
    r"|utf8|unicode|win(866|874|125[0-8])"
)
# A locale of the operating system; which ones are installed only the guest knows.
_LOCALE = re.compile(
    r"(C|POSIX|[a-z]{2,3}_[A-Z]{2})(\.[A-Za-z0-9-]{1,16})?(@[a-z]{1,16})?", re.ASCII
)


def _is_postgresql_encoding(name: str) -> bool:
    return _ENCODING.fullmatch(re.sub("[^a-z0-9]", "", name.lower())) is not None


_POSTGRESQL = Dialect(
    max_name_bytes=63,  # NAMEDATALEN - 1; a longer name would be cut off silently
    reserved_databases=("os_admin", "postgres", "template0", "template1"),
    # Trove's own list, then what CREATE ROLE refuses.
    reserved_users=("os_admin", "postgres", "root", "replicator", "public", "none"),
    reserved_user_prefixes=("pg_",),
    scopes_users_by_host=False,
    is_character_set=_is_postgresql_encoding,
    is_collation=lambda name: _LOCALE.fullmatch(name) is not None,
    verifier=scram_sha_256_verifier,
)

_BY_MANAGER = {"postgresql": _POSTGRESQL}


def dialect_of(manager: str) -> Dialect:
    """The rules of a datastore's manager; raises UnsupportedError for an engine without any."""
    if manager not in _BY_MANAGER:
        raise UnsupportedError(
            f"Databases and users cannot be created with the instance on {manager!r} yet; "
            "leave out instance.databases and instance.users."
        )
    return _BY_MANAGER[manager]
