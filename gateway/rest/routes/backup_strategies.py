"""Backup strategies: where backups go by default. There are none until there are backups."""

from __future__ import annotations

from aiohttp import web

from gateway.rest.router import Call, Route, answer
from trove_grpc.errors import NotFoundError, PermissionDeniedError, UnsupportedError

_STRATEGIES = "/backup_strategies"


class BackupStrategies:
    """Trove's checks, and honest answers behind them."""

    def routes(self) -> list[Route]:
        return [
            ("GET", _STRATEGIES, self.list_none),
            ("POST", _STRATEGIES, self.refuse_create),
            ("DELETE", _STRATEGIES, self.miss),
        ]

    async def list_none(self, call: Call) -> web.Response:
        _check_project(call)
        return answer({"backup_strategies": []})

    async def refuse_create(self, call: Call) -> web.Response:
        strategy = await call.fields("backup_strategy")
        strategy.required_text("swift_container")
        strategy.text("instance_id", nullable=True)
        raise UnsupportedError("Backup strategies are not supported by this deployment yet.")

    async def miss(self, call: Call) -> web.Response:
        _check_project(call)
        raise NotFoundError("Backup strategy cannot be found.")


def _check_project(call: Call) -> None:
    """Another project's are an administrator's business."""
    project = call.http.query.get("project_id", call.project_id)
    if project != call.project_id and not call.caller.is_admin:
        raise PermissionDeniedError(f"Operation not allowed for tenant {call.project_id}.")
