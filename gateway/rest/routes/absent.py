"""Trove's routes that are not here yet.

What a client reads in passing (lists) is empty, what it names is not found, what it would have
done is 501 with the reason; an instance that is not the caller's is 404 before all that.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from gateway.rest.admin import require_admin
from gateway.rest.control_plane import ControlPlane
from gateway.rest.new_instance import not_found
from gateway.rest.router import Call, Handler, Route, answer
from trove_grpc.errors import (
    ConflictError,
    NotFoundError,
    UnsupportedError,
)

_ALL = ("GET", "POST", "PUT", "PATCH", "DELETE")
# Kinds of resources that do not exist yet: path, root key of the list, error for one named.
_KINDS: tuple[tuple[str, str, Callable[[str], NotFoundError]], ...] = (
    ("/backups", "backups", not_found),
)


class Absent:
    """Honest answers for what is still to come."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane

    def routes(self) -> list[Route]:
        routes: list[Route] = [
            ("GET", "/instances/{id}/backups", self._empty_of_instance("backups")),
            ("GET", "/instances/{id}/modules", self._empty_of_instance("modules")),
            ("GET", "/modules/{id}/instances", _unsupported("Instances' modules")),
            ("PUT", "/modules/{id}/instances", _unsupported("Instances' modules")),
            *((method, "/mgmt/{rest:.*}", _manage) for method in _ALL),
        ]
        for path, root, missing in _KINDS:
            routes += [
                ("GET", path, _empty(root)),
                ("POST", path, _unsupported(root.capitalize())),
            ]
            one = _missing(missing)
            routes += [(method, f"{path}/{{id}}", one) for method in _ALL if method != "POST"]
            routes.append(("GET", f"{path}/{{id}}/instances", one))
        for part in ("log", "ssl", "modules"):
            handler = self._refuse_of_instance(part)
            for path in (f"/instances/{{id}}/{part}", f"/instances/{{id}}/{part}/{{rest:.*}}"):
                routes += [
                    (method, path, handler)
                    for method in _ALL
                    if (method, path) != ("GET", "/instances/{id}/modules")
                ]
        return routes

    def _empty_of_instance(self, root: str) -> Handler:
        async def handle(call: Call) -> web.Response:
            await self._control_plane.get_instance(call.project_id, call.segment("id"))
            return answer({root: []})

        return handle

    def _refuse_of_instance(self, part: str) -> Handler:
        async def handle(call: Call) -> web.Response:
            instance_id = call.segment("id")
            instance = await self._control_plane.get_instance(call.project_id, instance_id)
            if instance.status == "BUILD":
                raise ConflictError(
                    f"Instance {instance_id} is not ready.", reason="INSTANCE_NOT_READY"
                )
            raise UnsupportedError(
                f"/instances/{{id}}/{part} is not supported by this deployment yet."
            )

        return handle


def _empty(root: str) -> Handler:
    async def handle(_call: Call) -> web.Response:
        return answer({root: []})

    return handle


def _unsupported(what: str) -> Handler:
    async def handle(call: Call) -> web.Response:
        if call.http.method == "POST":
            await call.object()
        raise UnsupportedError(f"{what} are not supported by this deployment yet.")

    return handle


def _missing(error: Callable[[str], NotFoundError]) -> Handler:
    async def handle(call: Call) -> web.Response:
        raise error(call.segment("id"))

    return handle


async def _manage(call: Call) -> web.Response:
    require_admin(call)
    raise UnsupportedError("Management calls are not supported by this deployment yet.")
