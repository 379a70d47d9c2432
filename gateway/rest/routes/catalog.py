"""What one may choose from: datastores, their versions, flavors."""

from __future__ import annotations

from aiohttp import web

from gateway.rest import admin, new_instance, views
from gateway.rest.control_plane import ControlPlane
from gateway.rest.links import Json
from gateway.rest.router import Call, Route, answer
from trove_grpc.gen.conductor.v1 import resources_pb2


class Catalog:
    """Reads that ask the control plane once and keep nothing."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        self._administration = control_plane.datastore_administration

    def routes(self) -> list[Route]:
        version = "/datastores/{datastore}/versions/{version}"
        return [
            ("GET", "/flavors", self.list_flavors),
            ("GET", "/flavors/{id}", self.show_flavor),
            ("GET", "/datastores", self.list_datastores),
            # Before the route whose middle part would match "versions".
            ("GET", "/datastores/versions/{version}", self.show_version_by_id),
            ("GET", "/datastores/{datastore}", self.show_datastore),
            ("GET", "/datastores/{datastore}/versions", self.list_versions),
            ("GET", version, self.show_version),
            ("GET", f"{version}/flavors", self.list_version_flavors),
            ("GET", f"{version}/volume-types", self.list_volume_types),
        ]

    async def list_flavors(self, call: Call) -> web.Response:
        flavors = await self._control_plane.list_flavors()
        return answer({"flavors": [views.flavor(item, call.links) for item in flavors]})

    async def show_flavor(self, call: Call) -> web.Response:
        wanted = call.segment("id")
        for item in await self._control_plane.list_flavors():
            if item.id == wanted:
                return answer({"flavor": views.flavor(item, call.links)})
        raise new_instance.not_found(wanted)

    async def list_datastores(self, call: Call) -> web.Response:
        if call.caller.is_admin:
            everything = await self._administration.list_datastores()
            return answer(
                {"datastores": [admin.datastore(item, call.links) for item in everything]}
            )
        found = await self._control_plane.list_datastores()
        return answer({"datastores": [views.datastore(item, call.links) for item in found]})

    async def show_datastore(self, call: Call) -> web.Response:
        found = await self._datastore(call)
        view = admin.datastore if call.caller.is_admin else views.datastore
        return answer({"datastore": view(found, call.links)})

    async def list_versions(self, call: Call) -> web.Response:
        found = await self._datastore(call)
        return answer({"versions": [_version(call, item) for item in found.versions]})

    async def show_version(self, call: Call) -> web.Response:
        found = await self._control_plane.get_datastore_version(
            call.segment("datastore"), call.segment("version")
        )
        return answer({"version": _version(call, found)})

    async def show_version_by_id(self, call: Call) -> web.Response:
        found = await self._control_plane.get_datastore_version("", call.segment("version"))
        return answer({"version": _version(call, found)})

    async def _datastore(self, call: Call) -> resources_pb2.Datastore:
        """With inactive versions for administrators, without for others."""
        name = call.segment("datastore")
        if call.caller.is_admin:
            return await self._administration.get_datastore(name)
        return await self._control_plane.get_datastore(name)

    async def list_version_flavors(self, call: Call) -> web.Response:
        """Every flavor: no version restricts them."""
        await self._check_version(call)
        return await self.list_flavors(call)

    async def list_volume_types(self, call: Call) -> web.Response:
        """None: the local driver has one kind of disk."""
        await self._check_version(call)
        return answer({"volume_types": []})

    async def _check_version(self, call: Call) -> None:
        datastore = call.segment("datastore") if "datastore" in call.http.match_info else ""
        await self._control_plane.get_datastore_version(datastore, call.segment("version"))


def _version(call: Call, item: resources_pb2.DatastoreVersion) -> dict[str, Json]:
    view = admin.datastore_version if call.caller.is_admin else views.datastore_version
    return view(item, call.links)
