"""The web application: routes, and what happens around every request."""

from __future__ import annotations

import asyncio
import logging
import time

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.rest import metrics, problems
from gateway.rest.auth import Authenticator
from gateway.rest.control_plane import ControlPlane
from gateway.rest.negotiation import negotiate
from gateway.rest.openapi import document
from gateway.rest.policy import Policy
from gateway.rest.policy.routes import guard_of
from gateway.rest.rates import RateLimiter
from gateway.rest.router import CLOSING, Route, Routes, Settings, bind
from gateway.rest.routes.absent import Absent
from gateway.rest.routes.backup_strategies import BackupStrategies
from gateway.rest.routes.catalog import Catalog
from gateway.rest.routes.clusters import Clusters
from gateway.rest.routes.databases import Databases
from gateway.rest.routes.datastores import ManagedDatastores
from gateway.rest.routes.instances import Instances
from gateway.rest.routes.limits import Limits
from gateway.rest.routes.management import ManagedInstances
from gateway.rest.routes.modules import ModuleRoutes
from gateway.rest.routes.operation_events import OperationEvents
from gateway.rest.routes.operations import Operations
from gateway.rest.routes.quotas import QuotaRoutes
from gateway.rest.routes.root import Root
from gateway.rest.routes.users import Users
from gateway.rest.routes.versions import Versions
from trove_grpc import context, errors

log = logging.getLogger(__name__)

_REQUEST_ID_HEADER = "X-OpenStack-Request-Id"


def build_app(
    control_plane: ControlPlane,
    authenticator: Authenticator,
    policy: Policy,
    settings: Settings,
) -> web.Application:
    """The application; `settings.max_body_bytes` bounds every body."""
    app = web.Application(
        middlewares=[_around, _answer_errors(authenticator.challenge)],
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
        Operations(control_plane),
        OperationEvents(control_plane),
        Limits(control_plane, limiter),
        QuotaRoutes(control_plane),
        Catalog(control_plane),
        ModuleRoutes(control_plane.modules),
        ManagedDatastores(control_plane.datastore_administration),
        ManagedInstances(control_plane.management),
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
async def _around(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Bind the request id, measure, log one line."""
    request_id = context.accept_request_id(request.headers.get(_REQUEST_ID_HEADER, ""))
    started = time.perf_counter()
    with context.bound(request_id=request_id):
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
