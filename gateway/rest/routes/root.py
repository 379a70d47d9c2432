"""The superuser of an instance's engine: let in, kept out, and who it was that let it in."""

from __future__ import annotations

import asyncio
import secrets

from aiohttp import web

from gateway.rest import views
from gateway.rest.control_plane import ControlPlane
from gateway.rest.fields import Fields
from gateway.rest.inside import Inside, look_inside
from gateway.rest.router import Call, Route, answer
from trove_grpc.errors import PermissionDeniedError, TroveError
from trove_grpc.gen.guest.v1 import accounts_pb2

# Trove's name for it, whatever the engine.
_ROOT = "root"
# Twice Trove's, in the same alphabet: 190 bits.
_GENERATED_BYTES = 24
_MAY_HAVE_HAPPENED = ("AGENT_LOST", "AGENT_SILENT", "GUEST_ANSWER_INVALID")


class Root:
    """The password is made or given here, told once, and goes on as a verifier."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane

    def routes(self) -> list[Route]:
        path = "/instances/{id}/root"
        return [
            ("GET", path, self.show),
            ("POST", path, self.enable),
            ("DELETE", path, self.disable),
            ("GET", "/mgmt/instances/{id}/root", self.show_history),
        ]

    async def show(self, call: Call) -> web.Response:
        """By what is recorded: it is known while the agent is away too."""
        within = await look_inside(self._control_plane, call)
        is_enabled = await self._control_plane.root_history.is_enabled(
            call.project_id, within.instance.id
        )
        return answer({"rootEnabled": is_enabled})

    async def enable(self, call: Call) -> web.Response:
        within = await look_inside(self._control_plane, call)
        asked = Fields(await call.object_or_nothing(), "root")
        password = asked.text("password", nullable=True) or secrets.token_urlsafe(_GENERATED_BYTES)
        verifier = await asyncio.to_thread(within.dialect.verifier, password)
        await self._enable(within, verifier)
        return answer({"user": {"name": _ROOT, "password": password}})

    async def disable(self, call: Call) -> web.Response:
        """The engine first: the record never says less than may be true."""
        within = await look_inside(self._control_plane, call)
        history = self._control_plane.root_history
        if await history.is_enabled(call.project_id, within.instance.id):
            await within.change_anew(disable_root=accounts_pb2.DisableRootAction())
        await history.record_disabled(call.project_id, within.instance.id)
        return web.Response(status=204)

    async def show_history(self, call: Call) -> web.Response:
        if not call.caller.is_admin:
            raise PermissionDeniedError("User does not have admin privileges.", reason="NOT_ADMIN")
        instance_id = call.segment("id")
        last = await self._control_plane.root_history.last_enabling(instance_id)
        enabled = views.moment(last.enable_time) if last.HasField("enable_time") else "Never"
        user = last.user_id or "Nobody"
        return answer({"root_history": {"id": instance_id, "enabled": enabled, "user": user}})

    async def _enable(self, within: Inside, verifier: str) -> None:
        """Recorded first, and taken back where it is certain that nothing came of it."""
        history, call = self._control_plane.root_history, within.call
        was_enabled = await history.record_enabled(
            call.project_id, within.instance.id, call.caller.project_id
        )
        try:
            # Never by the client's key: a repeat has another password, and must set it.
            await within.change_anew(enable_root=accounts_pb2.EnableRootAction(verifier=verifier))
        except TroveError as error:
            if not was_enabled and error.reason not in _MAY_HAVE_HAPPENED:
                await history.record_disabled(call.project_id, within.instance.id)
            raise
