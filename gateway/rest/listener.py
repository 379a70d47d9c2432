"""The HTTP listener: from settings and a control plane to a bound port."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from aiohttp import web

from gateway.rest.app import build_app
from gateway.rest.attempts import BoundedAttempts
from gateway.rest.auth.opening import opened_authenticator
from gateway.rest.config import Config
from gateway.rest.control_plane import ControlPlane
from gateway.rest.cors import CrossOrigin
from gateway.rest.policy import Policy
from gateway.rest.router import Settings
from trove_grpc.errors import InvalidRequestError, UnavailableError

log = logging.getLogger(__name__)


async def serve_http(
    config: Config,
    control_plane: ControlPlane,
    stop: asyncio.Event,
    *,
    started: asyncio.Future[int] | None = None,
) -> None:
    """Serve HTTP alone until `stop`."""
    if config.auth == "none" and config.cors_allowed_origins:
        raise InvalidRequestError(
            "cors_allowed_origins needs authentication: with auth = 'none' any of their pages "
            "would be let in"
        )
    cross_origin = CrossOrigin(config.cors_allowed_origins, max_age=config.cors_max_age)
    policy = Policy(config.policy_file)
    settings = Settings(
        region=config.region,
        public_endpoint=config.public_endpoint,
        max_body_bytes=config.max_body_bytes,
        body_timeout=config.body_timeout,
        request_timeout=config.request_timeout,
        healthcheck_disable_file=config.healthcheck_disable_file,
    )
    async with opened_authenticator(
        config.auth, config.keystone, public_endpoint=config.public_endpoint
    ) as asked:
        authenticator = BoundedAttempts(
            asked, limit=config.failed_authentications, trusted_proxies=config.trusted_proxies
        )
        authenticator.check_listen(_split(config.listen)[0])
        app = build_app(control_plane, authenticator, policy, settings, cross_origin)
        await _serve(config, app, stop, started)


async def _serve(
    config: Config,
    app: web.Application,
    stop: asyncio.Event,
    started: asyncio.Future[int] | None,
) -> None:
    host, port = _split(config.listen)
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # Trove takes no compressed bodies; none can blow up here
        shutdown_timeout=config.drain_timeout.total_seconds(),
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise UnavailableError(
                f"cannot listen on {config.listen}: {error.strerror} (`ss -ltnp` names the "
                "process that holds it)",
                reason="PORT_TAKEN",
                subject=config.listen,
            ) from error
        actual = int(runner.addresses[0][1])
        log.info("listening on %s port %d, auth %s", host, actual, config.auth)
        if started is not None:
            started.set_result(actual)
        await stop.wait()
    finally:
        await runner.cleanup()


def _split(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    with contextlib.suppress(ValueError):
        if host:
            return host.strip("[]"), int(port)
    raise InvalidRequestError(f"listen = {listen!r} is not 'address:port'")
