"""Users of an instance, and what they have access to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web

from gateway.rest import accounts, inside
from gateway.rest.control_plane import ControlPlane
from gateway.rest.fields import Fields, as_object
from gateway.rest.inside import Inside, User, look_inside
from gateway.rest.links import Json
from gateway.rest.router import Call, Route, accepted, answer
from gateway.rest.routes.databases import ONE as ONE_DATABASE
from gateway.rest.routes.databases import database_of, named_page, next_page
from trove_grpc.errors import InvalidRequestError, NotFoundError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import accounts_pb2

# As accounts.proto bounds an answer.
_MAX_GRANTS = 1000


class Users:
    """Answered by the instance's own agent while the client waits."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane

    def routes(self) -> list[Route]:
        path = "/instances/{id}/users"
        one = f"{path}/{{user:[^/]+}}"
        return [
            ("GET", path, self.list_page),
            ("POST", path, self.create),
            ("PUT", path, self.change_passwords),
            ("GET", one, self.show),
            ("POST", one, self.create_one),
            ("PUT", one, self.change),
            ("DELETE", one, self.delete),
            ("GET", f"{one}/databases", self.list_access),
            ("PUT", f"{one}/databases", self.grant),
            ("DELETE", f"{one}/databases/{ONE_DATABASE}", self.revoke),
        ]

    async def list_page(self, call: Call) -> web.Response:
        within = await look_inside(self._control_plane, call)
        page = named_page(call)
        after = within.user(page.marker) if page.marker else User("", "")
        action = accounts_pb2.ListUsersAction(
            page_size=page.limit, after_name=after.name, after_host=after.host
        )
        result = (await within.ask(list_users=action)).users
        users = [_view(user) for user in _believed(result.users, most=page.limit)]
        last = [f"{user['name']}@{user['host']}" for user in users[-1:]] if result.has_more else []
        body: dict[str, Json] = {"users": [*users]}
        return answer(body | next_page(within, "users", page, last))

    async def create(self, call: Call) -> web.Response:
        within = await look_inside(self._control_plane, call)
        items = accounts.read_list(await call.object(), "users", most=accounts.MAX_USERS)
        await _create(within, items)
        return accepted()

    async def create_one(self, call: Call) -> web.Response:
        """As openstacksdk creates a user; Trove has no such route, whatever else is sent."""
        body = await call.object()
        if "user" not in body:
            raise NotFoundError("The resource could not be found.", reason="ROUTE_NOT_FOUND")
        within = await look_inside(self._control_plane, call)
        user = as_object(body["user"], "user")
        if "name" in user and user.text("name") != call.segment("user"):
            raise InvalidRequestError("The user's name in the path and in the body differ.")
        named = Fields({**_values(user), "name": call.segment("user")}, "user")
        await _create(within, [named])
        return accepted()

    async def change_passwords(self, call: Call) -> web.Response:
        within = await look_inside(self._control_plane, call)
        items = accounts.read_list(await call.object(), "users", most=accounts.MAX_USERS)
        changes = []
        for item in items:
            item.required_text("password")
            changes.append(
                accounts_pb2.UserChange(
                    name=accounts.read_user_name(item, "name", within.dialect),
                    host=accounts.read_host(item, within.dialect),
                )
            )
        if len({(change.name, change.host or "%") for change in changes}) < len(changes):
            raise InvalidRequestError("A user is named twice; send one password for each.")
        for change, item in zip(changes, items, strict=True):
            change.verifier = await _verifier(within, item)
        await within.change(update_users=accounts_pb2.UpdateUsersAction(changes=changes))
        return accepted()

    async def show(self, call: Call) -> web.Response:
        within = await look_inside(self._control_plane, call)
        return answer({"user": _view(await _get(within, call))})

    async def change(self, call: Call) -> web.Response:
        within = await look_inside(self._control_plane, call)
        user = _user_of(call, within)
        asked = await call.fields("user")
        asked.only("name", "password", "host")
        if not asked.names():
            raise InvalidRequestError("Validation error: user {} should be non-empty")
        change = accounts_pb2.UserChange(
            name=user.name,
            host=user.host,
            new_name=accounts.read_user_name(asked, "name", within.dialect)
            if "name" in asked
            else "",
            new_host=accounts.read_host(asked, within.dialect),
        )
        if "password" in asked:
            asked.required_text("password")
            change.verifier = await _verifier(within, asked)
        await within.change(update_users=accounts_pb2.UpdateUsersAction(changes=[change]))
        return accepted()

    async def delete(self, call: Call) -> web.Response:
        within = await look_inside(self._control_plane, call)
        user = _user_of(call, within)
        action = accounts_pb2.DeleteUserAction(name=user.name, host=user.host)
        await within.change(delete_user=action)
        return accepted()

    async def list_access(self, call: Call) -> web.Response:
        within = await look_inside(self._control_plane, call)
        return answer({"databases": _view(await _get(within, call))["databases"]})

    async def grant(self, call: Call) -> web.Response:
        within = await look_inside(self._control_plane, call)
        user = _user_of(call, within)
        items = accounts.read_list(await call.object(), "databases", most=accounts.MAX_DATABASES)
        names = [accounts.read_database_name(item, within.dialect) for item in items]
        action = accounts_pb2.GrantAccessAction(
            name=user.name, host=user.host, databases=dict.fromkeys(names)
        )
        await within.change(grant_access=action)
        return accepted()

    async def revoke(self, call: Call) -> web.Response:
        within = await look_inside(self._control_plane, call)
        user = _user_of(call, within)
        action = accounts_pb2.RevokeAccessAction(
            name=user.name, host=user.host, database=database_of(call, within)
        )
        await within.change(revoke_access=action)
        return accepted()


async def _create(within: Inside, items: Sequence[Fields]) -> None:
    users = [accounts.read_user(item, within.dialect) for item in items]
    if len({(user.name, user.host or "%") for user in users}) < len(users):
        raise InvalidRequestError(
            "Two or more users share the same name and host. "
            "Please correct the names or remove the duplicate entries."
        )
    # Key derivation costs, so that it comes after everything that may refuse the request.
    for user, item in zip(users, items, strict=True):
        user.verifier = await _verifier(within, item)
    await within.change(create_users=accounts_pb2.CreateUsersAction(users=users))


async def _verifier(within: Inside, item: Fields) -> str:
    return await asyncio.to_thread(within.dialect.verifier, item.required_text("password"))


async def _get(within: Inside, call: Call) -> engine_pb2.UserSpec:
    user = _user_of(call, within)
    action = accounts_pb2.GetUserAction(name=user.name, host=user.host)
    result = (await within.ask(get_user=action)).users
    (found,) = _believed(result.users, most=1, least=1)
    return found


def _user_of(call: Call, within: Inside) -> User:
    """The user a path names. One that cannot be is not found, a reserved one refused."""
    user = within.user(call.segment("user"))
    if within.dialect.user_problem(user.name):
        raise NotFoundError(f"User {user.name} cannot be found on the instance.")
    accounts.read_user_name(as_object({"name": user.name}, "user"), "name", within.dialect)
    return user


def _believed(
    users: Sequence[engine_pb2.UserSpec], *, most: int, least: int = 0
) -> list[engine_pb2.UserSpec]:
    inside.believed((user.name for user in users), most=most, least=least)
    inside.believed((user.host or accounts.ANYWHERE for user in users), most=most)
    inside.believed((name for user in users for name in user.databases), most=_MAX_GRANTS)
    return list(users)


def _view(user: engine_pb2.UserSpec) -> dict[str, Json]:
    return {
        "name": user.name,
        "host": user.host or accounts.ANYWHERE,
        "databases": [{"name": name} for name in user.databases],
    }


def _values(fields: Fields) -> dict[str, object]:
    return {name: fields.raw(name) for name in fields.names()}
