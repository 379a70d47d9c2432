"""Databases and users of a request's body: names, hosts and settings as their engine allows them.

The same rules stand in the guest agent, which trusts nobody; here they make the better message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.rest.dialects import Dialect
from gateway.rest.dialects.rules import Judge
from gateway.rest.fields import Fields, as_object, invalid, kind_of, shown
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2

# One request's worth; each user costs a key derivation.
MAX_DATABASES = 100
MAX_USERS = 100
ANYWHERE = "%"


def read_list(body: Mapping[str, Any], root: str, *, most: int) -> list[Fields]:
    """The objects of the array under `root` of a body."""
    if root not in body:
        raise InvalidRequestError(
            f"Validation error: '{root}' is a required property of the request body"
        )
    items = body[root]
    if not isinstance(items, list):
        raise invalid(root, f"must be an array, not {kind_of(items)}")
    if len(items) > most:
        raise invalid(root, f"is too long: at most {most} may be given")
    return [as_object(item, f"{root}[{index}]") for index, item in enumerate(items)]


def read_database(item: Fields, dialect: Dialect) -> engine_pb2.DatabaseSpec:
    database = engine_pb2.DatabaseSpec(
        name=read_database_name(item, dialect),
        character_set=_read_setting(item, "character_set", dialect.is_character_set),
        collation=_read_setting(item, "collate", dialect.is_collation),
    )
    character_set, collation = database.character_set, database.collation
    if character_set and collation and not dialect.fits(character_set, collation):
        raise invalid(item.at("collate"), f"is not a collation of {character_set}")
    return database


def read_database_name(item: Fields, dialect: Dialect) -> str:
    return _read_engine_name(
        item, "name", "Database", dialect, dialect.database_problem, dialect.reserved_databases
    )


def read_user(item: Fields, dialect: Dialect) -> engine_pb2.UserSpec:
    """A new user without his verifier; that the password is there is checked."""
    user = engine_pb2.UserSpec(
        name=read_user_name(item, "name", dialect), host=read_host(item, dialect)
    )
    item.required_text("password")
    granted = [
        database.required_text("name")
        for database in item.objects("databases", most=MAX_DATABASES)
    ]
    user.databases.extend(dict.fromkeys(granted))
    return user


def read_user_name(item: Fields, field: str, dialect: Dialect) -> str:
    name = _read_engine_name(
        item, field, "User", dialect, dialect.user_problem, dialect.reserved_users
    )
    if name.startswith(dialect.reserved_user_prefixes):
        raise InvalidRequestError(
            f"User name {shown(name)} begins with a prefix that the engine keeps for itself: "
            f"{', '.join(dialect.reserved_user_prefixes)}."
        )
    return name


def read_host(item: Fields, dialect: Dialect) -> str:
    host = item.text("host", nullable=True)
    if host not in ("", ANYWHERE) and (problem := dialect.host_problem(host)):
        raise invalid(item.at("host"), problem)
    return host


def _read_engine_name(  # noqa: PLR0917  one rule for both kinds of names
    item: Fields,
    field: str,
    kind: str,
    dialect: Dialect,
    problem_of: Judge,
    reserved: tuple[str, ...],
) -> str:
    name = item.required_text(field)
    if problem := problem_of(name):
        raise invalid(item.at(field), problem)
    if (name.lower() if dialect.reserved_ignore_case else name) in reserved:
        raise InvalidRequestError(
            f'{kind} name "{name}" is on the reserved list: {list(reserved)}.'
        )
    return name


def _read_setting(item: Fields, name: str, is_known: Callable[[str], bool]) -> str:
    value = item.text(name, nullable=True)
    if value and not is_known(value):
        raise invalid(item.at(name), "is not one of this datastore's; leave it out or change it")
    return value
