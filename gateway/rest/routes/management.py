"""Instances of every project, for administrators."""

from __future__ import annotations

import uuid

from aiohttp import web

from gateway.rest import admin, views
from gateway.rest.admin import require_admin
from gateway.rest.control_plane import ControlPlane
from gateway.rest.links import Json
from gateway.rest.router import Call, Route, answer
from trove_grpc.errors import UnsupportedError
from trove_grpc.gen.conductor.v1 import management_service_pb2 as pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

_INSTANCE = "/mgmt/instances/{id}"
_DELETED = {
    "true": pb2.DELETED_FILTER_ONLY_DELETED,
    "false": pb2.DELETED_FILTER_ONLY_LIVING,
}


class ManagedInstances:
    """Reads; what administrators do to an instance is in actions.py."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        self._management = control_plane.management

    def routes(self) -> list[Route]:
        return [
            ("GET", "/mgmt/instances", self.list_instances),
            ("GET", _INSTANCE, self.show),
            ("GET", f"{_INSTANCE}/diagnostics", self.refuse_what_no_agent_tells),
            ("GET", f"{_INSTANCE}/hwinfo", self.refuse_what_no_agent_tells),
            ("GET", f"{_INSTANCE}/rpc_ping", self.ping),
        ]

    async def list_instances(self, call: Call) -> web.Response:
        """Newest first; deleted ones too unless asked otherwise, as in Trove.

        `include_clustered` changes nothing while there are no clusters.
        """
        require_admin(call)
        page = call.offset_page()
        query = call.http.query
        found = await self._management.list_instances(
            pb2.ListManagedInstancesRequest(
                tenant_id=query.get("project_id", ""),
                deleted=_DELETED.get(
                    query.get("deleted", "").lower(), pb2.DELETED_FILTER_UNSPECIFIED
                ),
                page_size=page.limit,
                offset=page.offset,
            )
        )
        body: dict[str, Json] = {
            "instances": [admin.managed_instance(item, call.links) for item in found.instances]
        }
        if found.has_more:
            body["links"] = call.links.following(
                "mgmt/instances",
                limit=page.limit,
                marker=str(page.offset + len(found.instances)),
                filters=call.filters("deleted", "include_clustered", "project_id"),
            )
        return answer(body)

    async def show(self, call: Call) -> web.Response:
        require_admin(call)
        item = await self._management.get_instance(
            call.segment("id"),
            include_deleted=call.http.query.get("deleted", "").lower() == "true",
        )
        shown = admin.managed_instance_shown(item, call.links)
        if not item.HasField("delete_time"):
            history = self._control_plane.root_history
            tenant_id = item.instance.tenant_id
            is_enabled = await history.is_enabled(tenant_id, item.instance.id)
            last = await history.last_enabling(item.instance.id)
            shown["root_enabled"] = views.moment(last.enable_time) if is_enabled else None
            shown["root_enabled_by"] = last.user_id if is_enabled else None
        return answer({"instance": shown})

    async def ping(self, call: Call) -> web.Response:
        """204 when the guest's agent answers down its own stream; else why it does not."""
        require_admin(call)
        item = await self._management.get_instance(call.segment("id"), include_deleted=False)
        command = guest_pb2.Command(
            command_id=f"api/ping-{uuid.uuid4()}", ping=guest_pb2.PingAction()
        )
        await self._control_plane.guests.send(item.instance, command)
        return web.Response(status=204)

    async def refuse_what_no_agent_tells(self, call: Call) -> web.Response:
        """In production Trove fails here too: none of its guests implements the call."""
        require_admin(call)
        await self._management.get_instance(call.segment("id"), include_deleted=False)
        what = call.http.path.rpartition("/")[2]
        raise UnsupportedError(
            f"Guest agents do not report {what}; GET {call.http.path.rpartition('/')[0]} shows "
            "what they report.",
            reason="GUEST_CANNOT_TELL",
        )
