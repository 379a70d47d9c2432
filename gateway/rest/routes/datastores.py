"""Administration of datastores and their versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from gateway.rest import admin
from gateway.rest.admin import require_admin
from gateway.rest.fields import MAX_TEXT, Fields, check_text, invalid
from gateway.rest.ports.datastores import DatastoreAdministration
from gateway.rest.router import Call, Route, accepted, answer
from trove_grpc.gen.conductor.v1 import resources_pb2

_VERSIONS = "/mgmt/datastore-versions"
_LONGEST_NAME = 100
_LONGEST_NUMBER = 64
_LONGEST_MANAGER = 32
_MOST_TAGS = 5
_LONGEST_TAG = 20
_MOST_PACKAGES = 100
_LONGEST_PACKAGE = 255
# Trove's names of what may be changed, and ours.
_CHANGEABLE: Mapping[str, str] = {
    "name": "name",
    "datastore_manager": "manager",
    "active": "is_active",
    "default": "is_default",
    "packages": "packages",
    "image": "image_id",
    "image_tags": "image_tags",
    "registry_ext": "registry_ext",
    "repl_strategy": "repl_strategy",
}


class ManagedDatastores:
    """For administrators; whatever else is wrong, others are refused first."""

    def __init__(self, administration: DatastoreAdministration) -> None:
        self._administration = administration

    def routes(self) -> list[Route]:
        return [
            ("GET", _VERSIONS, self.list_versions),
            ("POST", _VERSIONS, self.create_version),
            ("GET", f"{_VERSIONS}/{{id}}", self.show_version),
            ("PATCH", f"{_VERSIONS}/{{id}}", self.edit_version),
            ("DELETE", f"{_VERSIONS}/{{id}}", self.delete_version),
            ("DELETE", "/datastores/{datastore}", self.delete_datastore),
        ]

    async def list_versions(self, call: Call) -> web.Response:
        require_admin(call)
        found = await self._administration.list_versions()
        return answer({"versions": [admin.managed_version(version) for version in found]})

    async def show_version(self, call: Call) -> web.Response:
        require_admin(call)
        found = await self._administration.get_version(call.segment("id"))
        return answer({"version": admin.managed_version(found)})

    async def create_version(self, call: Call) -> web.Response:
        require_admin(call)
        fields = await call.fields("version")
        fields.only("datastore_name", "version", *_CHANGEABLE)
        datastore = _read_name(fields, "datastore_name", longest=MAX_TEXT)
        for required in ("name", "datastore_manager", "active"):
            if required not in fields:
                raise invalid(fields.path, f"'{required}' is a required property")
        version = resources_pb2.DatastoreVersion(**_read(fields))
        version.datastore_name = datastore
        version.version = fields.text("version", longest=_LONGEST_NUMBER)
        await self._administration.create_version(version)
        return accepted()

    async def edit_version(self, call: Call) -> web.Response:
        """The body is the version itself, under no root key."""
        require_admin(call)
        fields = Fields(await call.object(), "version")
        fields.only(*_CHANGEABLE)
        values = _read(fields)
        version = resources_pb2.DatastoreVersion(id=call.segment("id"), **values)
        await self._administration.update_version(version, list(values))
        return accepted()

    async def delete_version(self, call: Call) -> web.Response:
        require_admin(call)
        await self._administration.delete_version(call.segment("id"))
        return accepted()

    async def delete_datastore(self, call: Call) -> web.Response:
        # No mgmt route: the rule datastore:delete alone guards it, whose refusal is 403.
        await self._administration.delete_datastore(call.segment("datastore"))
        return accepted()


def _read(fields: Fields) -> dict[str, Any]:
    """The fields that are there, by our names."""
    values: dict[str, Any] = {}
    for name, longest in (("name", _LONGEST_NAME), ("datastore_manager", _LONGEST_MANAGER)):
        if name in fields:
            values[_CHANGEABLE[name]] = _read_name(fields, name, longest=longest)
    for name in ("image", "registry_ext", "repl_strategy"):
        if name in fields:
            values[_CHANGEABLE[name]] = fields.text(name, nullable=True)
    for name in ("active", "default"):
        if name in fields:
            values[_CHANGEABLE[name]] = fields.boolean(name)
    for name, most, longest in (
        ("image_tags", _MOST_TAGS, _LONGEST_TAG),
        ("packages", _MOST_PACKAGES, _LONGEST_PACKAGE),
    ):
        if name in fields:
            values[_CHANGEABLE[name]] = _texts(fields, name, most=most, longest=longest)
    return values


def _read_name(fields: Fields, name: str, *, longest: int) -> str:
    text = fields.required_text(name, longest=longest)
    if not any(character.isalnum() for character in text):
        raise invalid(fields.at(name), "must contain at least one letter or digit")
    return text


def _texts(fields: Fields, name: str, *, most: int, longest: int) -> list[str]:
    items = fields.array(name, most=most)
    for index, item in enumerate(items):
        path = f"{fields.at(name)}[{index}]"
        if not isinstance(item, str) or not 0 < len(item) <= longest:
            raise invalid(path, f"must be a string of 1 to {longest} characters")
        check_text(item, path)
    return items
