"""What an engine calls a legal name, which names are its own, and how it keeps passwords."""

from __future__ import annotations

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
    verifier: Callable[[str], str]


_POSTGRESQL = Dialect(
    max_name_bytes=63,  # NAMEDATALEN - 1; a longer name would be cut off silently
    reserved_databases=("os_admin", "postgres", "template0", "template1"),
    # Trove's own list, then what CREATE ROLE refuses.
    reserved_users=("os_admin", "postgres", "root", "replicator", "public", "none"),
    reserved_user_prefixes=("pg_",),
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
