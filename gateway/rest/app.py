"""The web application: routes, and what happens around every request."""

from __future__ import annotations

import asyncio
import logging
import re
import time

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.rest import metrics, problems
from gateway.rest.auth import Authenticator
from gateway.rest.control_plane import ControlPlane
from gateway.rest.cors import CrossOrigin
from gateway.rest.negotiation import negotiate
from gateway.rest.openapi import document
from gateway.rest.policy import Policy
from gateway.rest.policy.routes import guard_of
from gateway.rest.rates import RateLimiter
from gateway.rest.router import CLOSING, Route, Routes, Settings, bind
from gateway.rest.routes.absent import Absent
from gateway.rest.routes.actions import ActionRoutes
from gateway.rest.routes.backup_strategies import BackupStrategies
from gateway.rest.routes.catalog import Catalog
from gateway.rest.routes.clusters import Clusters
from gateway.rest.routes.configurations import ConfigurationRoutes
from gateway.rest.routes.databases import Databases
from gateway.rest.routes.datastores import ManagedDatastores
from gateway.rest.routes.instances import Instances
from gateway.rest.routes.limits import Limits
from gateway.rest.routes.management import ManagedInstances
from gateway.rest.routes.modules import ModuleRoutes
from gateway.rest.routes.operation_events import OperationEvents
from gateway.rest.routes.operations import Operations
from gateway.rest.routes.parameters import ParameterRoutes
from gateway.rest.routes.quotas import QuotaRoutes
from gateway.rest.routes.root import Root
from gateway.rest.routes.users import Users
from gateway.rest.routes.versions import Versions
from trove_grpc import context, errors

log = logging.getLogger(__name__)

_REQUEST_ID_HEADER = "X-OpenStack-Request-Id"
# OpenStack's form alone: log lines are no place for foreign text.
_GLOBAL_REQUEST_ID = re.compile(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def build_app(
    control_plane: ControlPlane,
    authenticator: Authenticator,
    policy: Policy,
    settings: Settings,
    cross_origin: CrossOrigin,
) -> web.Application:
    """The application; `settings.max_body_bytes` bounds every body."""
    app = web.Application(
        # Outermost first: what any of them answers has a request id and is measured.
        middlewares=[_observe, cross_origin.middleware, _answer_errors(authenticator.challenge)],
        client_max_size=settings.max_body_bytes,
    )
    app[CLOSING] = asyncio.Event()
    app.on_shutdown.append(_close)
    app.add_routes(Versions(settings, document.build(described_routes(control_plane))).routes())
    limiter = RateLimiter(control_plane.rates)
    for group in route_groups(control_plane, limiter):
        for method, path, handler in group.routes():
            gate = limiter.gate(method, path)
            permit = guard_of(policy, method, path)
            app.router.add_route(
                method,
                f"/v1.0/{{project}}{path}",
                bind(handler, authenticator, gate, permit, settings),
            )
    return app


def route_groups(control_plane: ControlPlane, limiter: RateLimiter) -> tuple[Routes, ...]:
    """The routes of a project. The first that matches wins: Absent, with wide ones, is last."""
    return (
        Instances(control_plane),
        Databases(control_plane),
        Users(control_plane),
        Root(control_plane),
        ActionRoutes(control_plane),
        Operations(control_plane),
        OperationEvents(control_plane),
        Limits(control_plane, limiter),
        QuotaRoutes(control_plane),
        ParameterRoutes(control_plane.configurations),
        ConfigurationRoutes(control_plane),
        Catalog(control_plane),
        ModuleRoutes(control_plane.modules),
        ManagedDatastores(control_plane.datastore_administration),
        ManagedInstances(control_plane),
        Clusters(control_plane),
        BackupStrategies(),
        Absent(control_plane),
    )


async def _close(app: web.Application) -> None:
    app[CLOSING].set()


def described_routes(control_plane: ControlPlane) -> list[Route]:
    """What the OpenAPI document describes: every route but those that are only refused."""
    groups = route_groups(control_plane, RateLimiter(control_plane.rates))
    carried_out = (group for group in groups if not isinstance(group, Absent))
    return [route for group in carried_out for route in group.routes()]


@web.middleware
async def _observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Bind the request id, measure, log one line.

    As in oslo.middleware the id is always ours, so that nobody can make two requests look like
    one; the caller's own, of the service that the request came through, stands beside it.
    """
    request_id = context.new_request_id()
    labels = _caller_labels(request)
    started = time.perf_counter()
    with context.bound(request_id=request_id, **labels):
        response = negotiate(request, await handler(request))
        seconds = time.perf_counter() - started
        metrics.observe(request, response.status, seconds)
        # Paths name resources only; bodies and queries are never logged.
        log.info(
            "%s %s -> %d in %.0f ms",
            request.method,
            request.rel_url.raw_path,
            response.status,
            seconds * 1000,
        )
    response.headers[_REQUEST_ID_HEADER] = request_id
    return response


def _caller_labels(request: web.Request) -> dict[str, str]:
    theirs = request.headers.get(_REQUEST_ID_HEADER, "")
    return {"global_request_id": theirs} if _GLOBAL_REQUEST_ID.fullmatch(theirs) else {}


def _answer_errors(challenge: str) -> Middleware:
    """Turns errors into responses; every 401 says where one gets a token."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await _answer(request, handler)
        if challenge and response.status == web.HTTPUnauthorized.status_code:
            response.headers["WWW-Authenticate"] = challenge
        return response

    return middleware


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except errors.TroveError as error:
        if problems.is_internal(error):
            log.exception("internal error")
        return problems.render(error)
    except web.HTTPException as error:
        if error.status < web.HTTPBadRequest.status_code:
            raise
        return problems.render(problems.from_http(error))
    except Exception:
        # The REST counterpart of the RPC interceptor: nothing of an unforeseen failure leaks.
        log.exception("unhandled error")
        return problems.render(errors.TroveError("internal error"))
