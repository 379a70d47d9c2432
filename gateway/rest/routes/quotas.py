"""Quotas: everybody reads those of the own project, administrators read and set everybody's."""

from __future__ import annotations

import re

from aiohttp import web

from gateway.rest import admin, views
from gateway.rest.control_plane import ControlPlane
from gateway.rest.fields import Fields, invalid, kind_of
from gateway.rest.links import Json
from gateway.rest.router import Call, Route, answer
from trove_grpc.errors import PermissionDeniedError

# As Trove's column; -1 is unlimited, and what is less the conductor's to refuse.
_MOST = 2**31 - 1
_MOST_RESOURCES = 20
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,10}", re.ASCII)


class QuotaRoutes:
    """/mgmt/quotas/{project}, the one management route that users may read."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane

    def routes(self) -> list[Route]:
        return [
            ("GET", "/mgmt/quotas/{id}", self.show),
            ("PUT", "/mgmt/quotas/{id}", self.update),
        ]

    async def show(self, call: Call) -> web.Response:
        if call.segment("id") != call.project_id and not call.caller.is_admin:
            raise PermissionDeniedError(f"Operation not allowed for tenant {call.project_id}.")
        resources = await self._control_plane.get_quota(call.segment("id"))
        ordered = sorted(resources, key=lambda item: item.resource)
        return answer({"quotas": [views.quota(item) for item in ordered]})

    async def update(self, call: Call) -> web.Response:
        """Answers what was set, as Trove does."""
        admin.require_admin(call)
        limits = _read_limits(await call.fields("quotas"))
        await self._control_plane.quotas.set_limits(call.segment("id"), limits)
        shown: dict[str, Json] = dict(limits)
        return answer({"quotas": shown})


def _read_limits(quotas: Fields) -> dict[str, int]:
    names = sorted(quotas.names())
    if not 0 < len(names) <= _MOST_RESOURCES:
        raise invalid(quotas.path, "must name one or more resources and their limits")
    return {name: _read_limit(quotas, name) for name in names}


def _read_limit(quotas: Fields, name: str) -> int:
    """A whole number, or one as text: Trove's command line sends that."""
    value = quotas.raw(name)
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(quotas.at(name), f"must be a whole number, not {kind_of(value)}")
    if abs(value) > _MOST:
        raise invalid(quotas.at(name), f"is greater than the maximum of {_MOST}; -1 is unlimited")
    return value
