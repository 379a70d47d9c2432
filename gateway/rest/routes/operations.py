"""Operations and their steps: ours beside Trove's API, for people who wait."""

from __future__ import annotations

from aiohttp import web

from gateway.rest import views
from gateway.rest.control_plane import ControlPlane
from gateway.rest.links import Json
from gateway.rest.router import Call, Route, answer


class Operations:
    """Reads of the public projection of long work."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane

    def routes(self) -> list[Route]:
        return [
            ("GET", "/instances/{id}/operations", self.list_of_instance),
            ("GET", "/operations/{id}", self.show),
        ]

    async def list_of_instance(self, call: Call) -> web.Response:
        """Newest first. Those of a deleted instance can still be read: how it ended is news."""
        page = call.page()
        instance_id = call.segment("id")
        found = await self._control_plane.list_operations(
            call.project_id, instance_id, page_size=page.limit, page_token=page.marker
        )
        if not found.operations and not page.marker:
            await self._control_plane.get_instance(call.project_id, instance_id)
        body: dict[str, Json] = {
            "operations": [views.operation(item, call.links) for item in found.operations]
        }
        if found.next_page_token:
            body["links"] = call.links.following(
                f"instances/{instance_id}/operations",
                limit=page.limit,
                marker=found.next_page_token,
            )
        return answer(body)

    async def show(self, call: Call) -> web.Response:
        found = await self._control_plane.get_operation(call.project_id, call.segment("id"))
        return answer({"operation": views.operation(found, call.links)})
