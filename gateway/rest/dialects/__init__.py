"""What an engine calls a legal name, which names are its own, and how it keeps passwords.

A module for each engine; the guest agent checks the same again, and more.
"""

from gateway.rest.dialects.mariadb import MARIADB
from gateway.rest.dialects.postgresql import POSTGRESQL
from gateway.rest.dialects.redis import REDIS
from gateway.rest.dialects.rules import Dialect
from trove_grpc.errors import UnsupportedError

__all__ = ["Dialect", "dialect_of"]

_BY_MANAGER = {"mariadb": MARIADB, "postgresql": POSTGRESQL, "redis": REDIS}


def dialect_of(manager: str) -> Dialect:
    """The rules of a datastore's manager; raises UnsupportedError for an engine without any."""
    if manager not in _BY_MANAGER:
        raise UnsupportedError(
            f"Databases and users cannot be created with the instance on {manager!r} yet; "
            "leave out instance.databases and instance.users."
        )
    return _BY_MANAGER[manager]
