"""Clusters: none of the engines here forms any, and Trove's answers say so."""

from __future__ import annotations

from aiohttp import web

from gateway.rest.admin import require_admin
from gateway.rest.control_plane import ControlPlane
from gateway.rest.fields import invalid
from gateway.rest.router import Call, Route, answer
from trove_grpc.errors import NotFoundError, UnsupportedError

_MOST_INSTANCES = 100


class Clusters:
    """Lists are empty, what is named is not found, and a create is told why it cannot be."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane

    def routes(self) -> list[Route]:
        one = "/clusters/{id}"
        return [
            ("GET", "/clusters", self.list_none),
            ("POST", "/clusters", self.refuse_create),
            *((method, one, self.miss) for method in ("GET", "POST", "DELETE")),
            ("GET", f"{one}/instances/{{instance}}", self.miss),
            *((method, f"{one}/root", self.miss) for method in ("GET", "POST", "DELETE")),
            ("GET", "/mgmt/clusters", self.list_none_managed),
            ("GET", f"/mgmt{one}", self.miss_managed),
            ("POST", f"/mgmt{one}/action", self.miss_managed),
        ]

    async def list_none(self, call: Call) -> web.Response:
        call.page()  # a limit that is none is refused here too
        return answer({"clusters": []})

    async def refuse_create(self, call: Call) -> web.Response:
        """Trove looks at the body and the version first, so a mistake there is told instead."""
        cluster = await call.fields("cluster")
        cluster.required_text("name")
        datastore = cluster.object("datastore")
        if datastore is None:
            raise invalid(cluster.path, "'datastore' is a required property")
        for _instance in cluster.objects("instances", most=_MOST_INSTANCES):
            pass  # each must be an object
        version = await self._control_plane.get_datastore_version(
            datastore.required_text("type"), datastore.required_text("version")
        )
        raise UnsupportedError(
            f"Clusters not supported for {version.datastore_name}-{version.name}.",
            reason="CLUSTERS_UNSUPPORTED",
        )

    async def miss(self, call: Call) -> web.Response:
        raise NotFoundError(f"Cluster '{call.segment('id')}' cannot be found.")

    async def list_none_managed(self, call: Call) -> web.Response:
        require_admin(call)
        return await self.list_none(call)

    async def miss_managed(self, call: Call) -> web.Response:
        require_admin(call)
        return await self.miss(call)
