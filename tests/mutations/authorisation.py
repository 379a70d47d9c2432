"""Who may call what: the table, and the guard before every handler."""

from __future__ import annotations

from tests.mutations.mutation import FEDERATED, LISTENERS, REFUSALS, TABLE, Mutation, removed

_TABLE = "trove_grpc/authorization.py"
_AROUND = "trove_grpc/interceptors.py"
# The table's own names for sets of roles: a guest in any of them must be seen.
_ROWS = {
    "_READERS": "_READERS = frozenset({",
    "_API": "_API = frozenset({",
    "_TASKMANAGER": "_TASKMANAGER = frozenset({",
    "_GATEWAY": "_GATEWAY = frozenset({",
    "_OPERATOR": "_OPERATOR = frozenset({",
    "_LOCAL": "_LOCAL = frozenset({",
    "_ISSUERS_CLIENTS": "_ISSUERS_CLIENTS = frozenset({",
}

MUTATIONS: tuple[Mutation, ...] = (
    *(
        removed(f"no guest among {name}", _TABLE, old, TABLE, new=f"{old}Role.GUEST, ")
        for name, old in _ROWS.items()
    ),
    removed(
        "nobody but guests among _GUEST",
        _TABLE,
        "_GUEST = frozenset({",
        TABLE,
        new="_GUEST = frozenset({Role.GATEWAY, ",
    ),
    removed(
        "anonymous callers enrol and no more",
        _TABLE,
        '"/trove.guest.v1.IdentityService/Renew": _GUEST',
        TABLE,
        new='"/trove.guest.v1.IdentityService/Renew": frozenset({Role.GUEST, Role.ANONYMOUS})',
    ),
    removed(
        "reflection is for operators",
        _TABLE,
        '"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _OPERATOR',
        TABLE,
        new='"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": frozenset(Role)',
    ),
    removed(
        "what is not in the table is refused",
        _TABLE,
        "CALLERS.get(method, frozenset())",
        LISTENERS,
        new="CALLERS.get(method, frozenset(Role))",
    ),
    removed(
        "other regions have a table of their own",
        _TABLE,
        "        if method not in FEDERATED:\n",
        FEDERATED,
        new="        if method not in CALLERS:\n",
    ),
    removed(
        "every call asks the table",
        _AROUND,
        "                authorization.authorize(caller, method)\n",
        LISTENERS,
    ),
    removed(
        "an unknown method is refused like a forbidden one",
        _AROUND,
        "        if handler is None:\n",
        LISTENERS,
        new="        if handler is None:\n            return None\n        if handler is None:\n",
    ),
    removed(
        "a unary answer is guarded",
        _AROUND,
        "        async with around(peer):\n            result = inner(request, peer)\n            "
        "return await result if inspect.isawaitable(result) else result\n",
        LISTENERS,
        new="        result = inner(request, peer)\n        "
        "return await result if inspect.isawaitable(result) else result\n",
    ),
    removed(
        "a stream that yields is guarded",
        _AROUND,
        "            async with around(peer):\n                async for response in inner",
        LISTENERS,
        new="            if peer:\n                async for response in inner",
    ),
    removed(
        "a stream that writes is guarded",
        _AROUND,
        "        async with around(peer):\n            await inner(request, peer)",
        LISTENERS,
        new="        if peer:\n            await inner(request, peer)",
    ),
    removed(
        "the API sends what its list names, and no more",
        "gateway/guest/dispatch.py",
        "    if action not in FROM_API:\n",
        REFUSALS,
        new="    if not action:\n",
    ),
    removed(
        "the API says whose instance it means",
        "gateway/guest/dispatch.py",
        "    if not request.tenant_id:\n",
        REFUSALS,
        new="    if not request.instance_id:\n",
    ),
    removed(
        "a command for another tenant's guest is refused",
        "gateway/guest/dispatch.py",
        "    if request.tenant_id and request.tenant_id != session.caller.tenant_id:\n",
        REFUSALS,
        new="    if not session.caller.tenant_id:\n",
    ),
    removed(
        "the API has command ids of its own",
        "gateway/guest/dispatch.py",
        "    if not command.command_id.startswith(_FROM_API_ID):\n",
        REFUSALS,
        new="    if not command.command_id:\n",
    ),
)
