"""One table: which rule guards which route.

A route that is not in it cannot be served (`guard_of` raises at the start), so that none is
forgotten. The table has all of Trove's routes, those that are still to come too.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from gateway.rest.policy.defaults import MANAGEMENT
from gateway.rest.policy.engine import Policy
from gateway.rest.router import Call
from trove_grpc.errors import InvalidRequestError

# Rules that a request needs, where its body or query decides.
Choice = Callable[[Call], Awaitable[tuple[str, ...]]]
Guard = Callable[[Call], Awaitable[None]]

_ANY = "*"
_PART = re.compile(r"\{\w+(?::(?P<pattern>[^{}]*))?\}")
_REST = "{*}"

_ACTIONS = {
    "restart": "instance:restart",
    "promote_to_replica_source": "instance:promote_to_replica_source",
    "eject_replica_source": "instance:eject_replica_source",
    "reset_status": "instance:reset_status",
}
_RESIZES = {"volume": "instance:resize_volume", "flavorRef": "instance:resize_flavor"}
# What a new instance brings along needs the rule of making it alone.
_BROUGHT = {
    "users": "instance:extension:user:create",
    "databases": "instance:extension:database:create",
    "modules": "instance:module_apply",
    "configuration": "instance:update",
}


async def _of_new_instance(call: Call) -> tuple[str, ...]:
    asked = (await call.object()).get("instance")
    given = asked if isinstance(asked, dict) else {}
    return ("instance:create", *(rule for key, rule in _BROUGHT.items() if given.get(key)))


async def _of_instance_action(call: Call) -> tuple[str, ...]:
    """Raises InvalidRequestError for an action that has no rule."""
    asked = await call.object()
    names: list[str] = []
    for action, options in asked.items():
        if action == "resize":
            sizes = options if isinstance(options, dict) else {}
            found = [rule for size, rule in _RESIZES.items() if size in sizes]
            names += found or _RESIZES.values()
        elif action in _ACTIONS:
            names.append(_ACTIONS[action])
            # As well, not instead: in Trove an owner may reset the status by this word.
            if isinstance(options, dict) and options.get("force_delete"):
                names.append("instance:force_delete")
        else:
            names.clear()
            break
    if not names:
        raise InvalidRequestError(
            "Name exactly one action in the request body: "
            f"{', '.join(sorted((*_ACTIONS, 'resize')))}."
        )
    return tuple(names)


async def _of_cluster_action(call: Call) -> tuple[str, ...]:
    if call.http.can_read_body and "reset-status" in await call.object():
        return ("cluster:reset-status",)
    return ("cluster:action",)


async def _of_backups(call: Call) -> tuple[str, ...]:
    if call.http.query.get("all_projects", "").lower() in ("1", "true", "yes", "on", "t", "y"):
        return ("backup:index:all_projects",)
    return ("backup:index",)


_VERSION = "/datastores/{}/versions/{}"
_USER = "/instances/{}/users/{}"
_RULES: dict[str, dict[str, str | Choice]] = {
    "/limits": {"GET": "limits:index"},
    "/flavors": {"GET": "flavor:index"},
    "/flavors/{}": {"GET": "flavor:show"},
    "/datastores": {"GET": "datastore:index"},
    "/datastores/{}": {"GET": "datastore:show", "DELETE": "datastore:delete"},
    "/datastores/{}/versions": {"GET": "datastore:version_index"},
    "/datastores/versions/{}": {"GET": "datastore:version_show_by_uuid"},
    "/datastores/versions/{}/parameters": {"GET": "configuration-parameter:index_by_version"},
    "/datastores/versions/{}/parameters/{}": {"GET": "configuration-parameter:show_by_version"},
    _VERSION: {"GET": "datastore:version_show"},
    f"{_VERSION}/flavors": {"GET": "datastore:list_associated_flavors"},
    f"{_VERSION}/volume-types": {"GET": "datastore:list_associated_volume_types"},
    f"{_VERSION}/parameters": {"GET": "configuration-parameter:index"},
    f"{_VERSION}/parameters/{{}}": {"GET": "configuration-parameter:show"},
    "/instances": {"GET": "instance:index", "POST": _of_new_instance},
    "/instances/detail": {"GET": "instance:detail"},
    "/instances/{}": {
        "GET": "instance:show",
        "PUT": "instance:update",
        "PATCH": "instance:edit",
        "DELETE": "instance:delete",
    },
    "/instances/{}/action": {"POST": _of_instance_action},
    "/instances/{}/backups": {"GET": "instance:backups"},
    "/instances/{}/operations": {"GET": "operation:index"},
    "/operations/{}": {"GET": "operation:show"},
    "/operations/{*}": {"GET": "operation:show"},
    "/instances/{}/configuration": {_ANY: "instance:configuration"},
    "/instances/{}/configuration/{*}": {_ANY: "instance:configuration"},
    "/instances/{}/log": {"GET": "instance:guest_log_list", _ANY: "instance:guest_log:action"},
    "/instances/{}/log/{*}": {_ANY: "instance:guest_log:action"},
    "/instances/{}/ssl": {
        "GET": "instance:ssl:index",
        "DELETE": "instance:ssl:delete",
        _ANY: "instance:ssl:create",
    },
    "/instances/{}/ssl/{*}": {_ANY: "instance:ssl:create"},
    "/instances/{}/modules": {"GET": "instance:module_list", _ANY: "instance:module_apply"},
    "/instances/{}/modules/{}": {"DELETE": "instance:module_remove"},
    "/instances/{}/modules/{*}": {_ANY: "instance:module_remove"},
    "/instances/{}/databases": {
        "GET": "instance:extension:database:index",
        _ANY: "instance:extension:database:create",
    },
    "/instances/{}/databases/{}": {
        "GET": "instance:extension:database:show",
        "DELETE": "instance:extension:database:delete",
    },
    "/instances/{}/databases/{*}": {_ANY: "instance:extension:database:delete"},
    "/instances/{}/users": {
        "GET": "instance:extension:user:index",
        "PUT": "instance:extension:user:update_all",
        _ANY: "instance:extension:user:create",
    },
    _USER: {
        "GET": "instance:extension:user:show",
        "PUT": "instance:extension:user:update",
        "DELETE": "instance:extension:user:delete",
    },
    f"{_USER}/databases": {
        "GET": "instance:extension:user_access:index",
        "PUT": "instance:extension:user_access:update",
    },
    f"{_USER}/databases/{{}}": {"DELETE": "instance:extension:user_access:delete"},
    "/instances/{}/users/{*}": {_ANY: "instance:extension:user:update"},
    "/instances/{}/root": {
        "GET": "instance:extension:root:index",
        "DELETE": "instance:extension:root:delete",
        _ANY: "instance:extension:root:create",
    },
    "/instances/{}/root/{*}": {_ANY: "instance:extension:root:create"},
    "/backups": {"GET": _of_backups, "POST": "backup:create"},
    "/backups/{}": {"GET": "backup:show", _ANY: "backup:delete"},
    "/backups/{}/instances": {"GET": "backup:show"},
    "/backup_strategies": {
        "GET": "backup_strategy:index",
        "POST": "backup_strategy:create",
        "DELETE": "backup_strategy:delete",
    },
    "/configurations": {"GET": "configuration:index", "POST": "configuration:create"},
    "/configurations/{}": {
        "GET": "configuration:show",
        "PUT": "configuration:update",
        "PATCH": "configuration:edit",
        "DELETE": "configuration:delete",
    },
    "/configurations/{}/instances": {"GET": "configuration:instances"},
    "/modules": {"GET": "module:index", "POST": "module:create"},
    "/modules/{}": {"GET": "module:show", "PUT": "module:update", "DELETE": "module:delete"},
    "/modules/{}/instances": {"GET": "module:instances", "PUT": "module:reapply"},
    "/clusters": {"GET": "cluster:index", "POST": "cluster:create"},
    "/clusters/{}": {
        "GET": "cluster:show",
        "POST": _of_cluster_action,
        "DELETE": "cluster:delete",
    },
    "/clusters/{}/action": {"POST": _of_cluster_action},
    "/clusters/{}/instances/{}": {"GET": "cluster:show_instance"},
    "/clusters/{}/root": {
        "GET": "cluster:extension:root:index",
        "POST": "cluster:extension:root:create",
        "DELETE": "cluster:extension:root:delete",
    },
    # The one thing below /mgmt that a project may ask: about itself, as its handler checks.
    "/mgmt/quotas/{}": {"GET": "quota:show", _ANY: MANAGEMENT},
    "/mgmt/{*}": {_ANY: MANAGEMENT},
}


def guard_of(policy: Policy, method: str, path: str) -> Guard:
    """Checks a request of this route, whose path is below the project.

    Raises LookupError for a route without a rule.
    """
    rule = rule_of(method, path)

    async def check(call: Call) -> None:
        for name in (rule,) if isinstance(rule, str) else await rule(call):
            policy.check(call.caller, name)

    return check


def rule_of(method: str, path: str) -> str | Choice:
    """The rule's name, or what chooses it."""
    shape = _PART.sub(lambda part: _REST if part["pattern"] == ".*" else "{}", path)
    for candidate in (shape, *_wider(shape)):
        rules = _RULES.get(candidate, {})
        if rule := rules.get(method) or rules.get(_ANY):
            return rule
    raise LookupError(f"{method} {path} has no rule in gateway/rest/policy/routes.py")


def fixed_rules() -> set[str]:
    """The names that need no look at a request; a test compares them with the defaults."""
    return {rule for rules in _RULES.values() for rule in rules.values() if isinstance(rule, str)}


def _wider(shape: str) -> list[str]:
    """Paths that end in "anything", the longest first."""
    parts = shape.split("/")
    return ["/".join((*parts[:length], _REST)) for length in range(len(parts) - 1, 1, -1)]
