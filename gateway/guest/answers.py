"""What a guest's answer must be before it leaves the gateway.

A guest may say what it likes of its own databases and users, but not more than was asked for, and
nothing that is no text: whoever shows it has other tenants to serve.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from trove_grpc.gen.guest.v1 import accounts_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

# What a successful answer to each action must carry.
RESULTS = {
    "prepare": "prepare",
    "start": "engine",
    "stop": "engine",
    "restart": "engine",
    "resize": "engine",
    "configure": "configure",
    "ping": "ping",
    "list_databases": "databases",
    "list_users": "users",
    "get_user": "users",
    **dict.fromkeys(
        (
            "create_databases",
            "delete_database",
            "create_users",
            "update_users",
            "delete_user",
            "grant_access",
            "revoke_access",
            "enable_root",
            "disable_root",
        ),
        "accounts",
    ),
}
MAX_PAGE = 100
# Databases of all users of one page, as accounts.proto says.
_MAX_GRANTS = 1000
_MAX_NAME = 255


def problem_of(command: guest_pb2.Command, result: guest_pb2.CommandResult) -> str:
    """What is wrong with a successful answer, for people; "" when nothing is."""
    action = command.WhichOneof("action") or ""
    if result.WhichOneof("result") != RESULTS.get(action, "nothing"):
        return "another kind of result"
    if action == "list_databases":
        databases = result.databases.databases
        if len(databases) > command.list_databases.page_size:
            return "more databases than were asked for"
        return _problem_of_names(item.name for item in databases)
    if action in ("list_users", "get_user"):
        most = 1 if action == "get_user" else command.list_users.page_size
        return _problem_of_users(result.users, most=most, least=action == "get_user")
    return ""


def _problem_of_users(result: accounts_pb2.UsersResult, *, most: int, least: int) -> str:
    if not least <= len(result.users) <= most:
        return "another number of users than was asked for"
    if sum(len(user.databases) for user in result.users) > _MAX_GRANTS:
        return f"more than {_MAX_GRANTS} databases of its users"
    if any(user.verifier for user in result.users):
        return "verifiers, which nobody asked for"
    return _problem_of_names(
        text for user in result.users for text in (user.name, user.host or "%", *user.databases)
    )


def _problem_of_names(names: Iterable[str]) -> str:
    for name in names:
        if not 0 < len(name) <= _MAX_NAME:
            return f"a name that has not 1 to {_MAX_NAME} characters"
        if any(unicodedata.category(character) == "Cc" for character in name):
            return "a name with control characters"
    return ""
