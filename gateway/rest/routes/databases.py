"""Databases of an instance."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from gateway.rest import accounts, inside
from gateway.rest.control_plane import ControlPlane
from gateway.rest.fields import as_object
from gateway.rest.inside import Inside, look_inside
from gateway.rest.links import Json
from gateway.rest.router import Call, Page, Route, accepted, answer
from trove_grpc.errors import InvalidRequestError, NotFoundError, UnsupportedError
from trove_grpc.gen.guest.v1 import accounts_pb2

# Names are quoted up to nine characters for one.
_MAX_MARKER = 9 * 255
_QUOTED = re.compile(r"([A-Za-z0-9_.~-]|%[0-9A-F]{2})*", re.ASCII)
ONE = "{database:[^/]+}"


class Databases:
    """Answered by the instance's own agent while the client waits."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane

    def routes(self) -> list[Route]:
        path = "/instances/{id}/databases"
        return [
            ("GET", path, self.list_page),
            ("POST", path, self.create),
            ("GET", f"{path}/{ONE}", self.show),
            ("DELETE", f"{path}/{ONE}", self.delete),
        ]

    async def list_page(self, call: Call) -> web.Response:
        within = await look_inside(self._control_plane, call)
        page = named_page(call)
        action = accounts_pb2.ListDatabasesAction(page_size=page.limit, after=page.marker)
        result = (await within.ask(list_databases=action)).databases
        names = inside.believed((item.name for item in result.databases), most=page.limit)
        body: dict[str, Json] = {"databases": [{"name": name} for name in names]}
        last = names[-1:] if result.has_more else []
        return answer(body | next_page(within, "databases", page, last))

    async def create(self, call: Call) -> web.Response:
        within = await look_inside(self._control_plane, call)
        databases = [
            accounts.read_database(item, within.dialect) for item in _listed(await call.object())
        ]
        if len({database.name for database in databases}) < len(databases):
            raise InvalidRequestError(
                "Two or more databases share the same name. "
                "Please correct the names or remove the duplicate entries."
            )
        action = accounts_pb2.CreateDatabasesAction(databases=databases)
        await within.change(create_databases=action)
        return accepted()

    async def show(self, call: Call) -> web.Response:
        """Trove has never had it."""
        await self._control_plane.get_instance(call.project_id, call.segment("id"))
        raise UnsupportedError(
            "One database cannot be shown; GET …/databases lists them with all there is to say."
        )

    async def delete(self, call: Call) -> web.Response:
        within = await look_inside(self._control_plane, call)
        name = database_of(call, within)
        action = accounts_pb2.DeleteDatabaseAction(name=name)
        await within.change(delete_database=action)
        return accepted()


def database_of(call: Call, within: Inside) -> str:
    """The database a path names. One that cannot be is not found, a reserved one refused."""
    name = call.segment("database")
    if within.dialect.database_problem(name):
        raise NotFoundError(f"Database {name} cannot be found on the instance.")
    return accounts.read_database_name(as_object({"name": name}, "database"), within.dialect)


def named_page(call: Call) -> Page:
    """A page whose marker is a name. Links quote it twice, clients unquote it once more or not."""
    page = call.page(longest_marker=_MAX_MARKER)
    is_quoted = _QUOTED.fullmatch(page.marker)
    return Page(limit=page.limit, marker=unquote(page.marker) if is_quoted else page.marker)


def next_page(within: Inside, collection: str, page: Page, last: list[str]) -> dict[str, Json]:
    """The link behind the last item shown, where there are more."""
    if not last:
        return {}
    path = f"instances/{within.instance.id}/{collection}"
    return {"links": within.call.links.following(path, limit=page.limit, marker=last[0])}


def _listed(body: dict[str, Any]) -> list[Any]:
    # openstacksdk sends one, under the singular.
    if "databases" not in body and "database" in body:
        return [as_object(body["database"], "database")]
    return accounts.read_list(body, "databases", most=accounts.MAX_DATABASES)
