"""The guest gateway's process: `python -m gateway.guest --config FILE`.

Three servers, because ports of one server share its handlers: enrolment (no client certificate),
guests (mutual TLS, guest authority alone), internal (mutual TLS, services and operators).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grpc import aio

from gateway.guest.bundles import Bundles
from gateway.guest.config import Config
from gateway.guest.connect import GuestSessionService
from gateway.guest.connections import ConnectionWarden, Share
from gateway.guest.denials import end_denied
from gateway.guest.directives import Directives
from gateway.guest.directory import Directory
from gateway.guest.dispatch import DispatchService
from gateway.guest.enrolment import EnrolmentService
from gateway.guest.identity import IdentityService
from gateway.guest.refusals import RefusalJournal
from gateway.guest.registry import Registry
from gateway.guest.session import Ending
from gateway.guest.sightings import Reporter
from gateway.guest.uplink import Uplink
from gateway.guest.windows import announce_windows
from pki.denials import DenialList
from pki.feed import DenialFeed, Pace
from pki.renewal import ServiceRenewer
from trove_grpc import errors, logs, metrics, process
from trove_grpc.client import PeerChannel
from trove_grpc.config import load
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2_grpc as dispatch_rpc
from trove_grpc.gen.guest.v1 import enrolment_service_pb2_grpc as enrolment_rpc
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2_grpc as guest_rpc
from trove_grpc.gen.guest.v1 import identity_service_pb2_grpc as identity_rpc
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as watch_pb
from trove_grpc.identity import Role, identify
from trove_grpc.server import (
    Server,
    build_enrolment_server,
    build_guest_server,
    build_internal_server,
)
from trove_grpc.tls import IdentityDirectory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where the gateway listens, "host:port"."""

    enrolment: str
    guest: str
    internal: str


async def serve(
    config: Config,
    stop: asyncio.Event,
    *,
    started: Callable[[Endpoints], None] | None = None,
) -> None:
    """Run the gateway until `stop`; `started` hears the real ports."""
    identity = IdentityDirectory(config.identity)
    own = identify(identity.load().chain_pem, identity.bundle())
    issuer_seconds = config.issuer_timeout.total_seconds()
    conductor_seconds = config.conductor_timeout.total_seconds()
    async with (
        PeerChannel(config.conductor, identity=identity, server_role=Role.CONDUCTOR) as conductor,
        PeerChannel(config.issuer, identity=identity, server_role=Role.ISSUER) as issuer,
    ):
        registry = Registry()
        gateway_id = config.gateway_id or own.name
        watching = _watch(config, issuer, identity, registry, gateway_id)
        feed, directives = watching.feed, watching.directives
        refusals = RefusalJournal(
            issuer, interval=config.refusal_report.total_seconds(), timeout=issuer_seconds
        )
        warden = ConnectionWarden(kept=lambda: {session.peer for session in registry})
        directory = Directory(
            conductor,
            gateway_id=gateway_id,
            incarnation=secrets.token_hex(8),
            openings=config.openings,
            open_timeout=config.open_timeout.total_seconds(),
            timeout=conductor_seconds,
            closings_limit=config.closings_limit,
        )
        uplink = Uplink(
            conductor,
            flush=config.heartbeat_flush.total_seconds(),
            limit=config.pending_reports_limit,
            longest_retry=config.uplink_retry.total_seconds(),
        )
        sessions = GuestSessionService(
            config,
            registry=registry,
            directory=directory,
            uplink=uplink,
            feed=feed,
            directives=directives,
            reporter=watching.reporter,
            bundle_version=lambda: identity.bundle().version,
        )
        enrolment = EnrolmentService(
            issuer,
            feed,
            at_once=config.enrolments_at_once,
            line=config.enrolments_waiting,
            failures_per_minute=config.failed_enrolments_per_minute,
            timeout=issuer_seconds,
        )
        identities = IdentityService(
            issuer,
            feed,
            registry,
            identity,
            renewals_per_hour=config.renewals_per_hour,
            timeout=issuer_seconds,
        )

        def register_guest(server: aio.Server) -> None:
            guest_rpc.add_GuestSessionServiceServicer_to_server(sessions, server)
            identity_rpc.add_IdentityServiceServicer_to_server(identities, server)

        async with contextlib.AsyncExitStack() as servers:
            enrolment_server = build_enrolment_server(
                config.enrolment_listen,
                identity=identity,
                register=lambda server: enrolment_rpc.add_EnrolmentServiceServicer_to_server(
                    enrolment, server
                ),
                refused=refusals.note,
                begun=warden.handshake_began,
            )
            servers.push_async_callback(enrolment_server.stop, 0)
            guest_server = build_guest_server(
                config.guest_listen,
                identity=identity,
                register=register_guest,
                denials=feed.denials,
                refused=refusals.note,
                begun=warden.handshake_began,
            )
            servers.push_async_callback(guest_server.stop, 0)
            internal_server = build_internal_server(
                config.internal_listen,
                identity=identity,
                register=lambda server: dispatch_rpc.add_DispatchServiceServicer_to_server(
                    DispatchService(registry, feed, directives), server
                ),
                services=["trove.dispatch.v1.DispatchService"],
                denials=feed,
            )
            servers.push_async_callback(internal_server.stop, 0)
            endpoints = Endpoints(
                enrolment=_endpoint(config.enrolment_listen, enrolment_server),
                guest=_endpoint(config.guest_listen, guest_server),
                internal=_endpoint(config.internal_listen, internal_server),
            )
            for server, name in ((enrolment_server, "enrolment"), (guest_server, "guest")):
                warden.watch(server.port, Share(name, config.connections_per_address))
            halt = asyncio.Event()  # the background work ends after the streams
            async with asyncio.TaskGroup() as group:
                group.create_task(uplink.run(halt), name="uplink")
                group.create_task(
                    directory.tell_closings(halt, conductor_seconds), name="session-closings"
                )
                # One attempt each before the first guest comes; later ones are the loops'.
                await _introduce(config, endpoints, directory, feed)
                group.create_task(directory.keep_lease(halt), name="gateway-lease")
                group.create_task(watching.run(halt), name="watching-the-issuer")
                group.create_task(refusals.run(halt), name="refusal-journal")
                group.create_task(warden.run(halt), name="connection-warden")
                group.create_task(
                    ServiceRenewer(identity, issuer).run(halt), name="identity-renewal"
                )
                group.create_task(
                    announce_windows(
                        registry,
                        sessions.reconnect_window,
                        halt,
                        interval=config.window_notices.total_seconds(),
                    ),
                    name="window-notices",
                )
                for server in (internal_server, enrolment_server, guest_server):
                    await server.start()
                log.info(
                    "serving enrolment=%s guest=%s internal=%s",
                    endpoints.enrolment,
                    endpoints.guest,
                    endpoints.internal,
                )
                if started is not None:
                    started(endpoints)
                await stop.wait()
                grace = config.drain_grace.total_seconds()
                async with asyncio.TaskGroup() as stopping:
                    for server in (enrolment_server, guest_server, internal_server):
                        stopping.create_task(server.stop(grace))
                    _say_goodbye(registry, sessions)
                halt.set()


async def _introduce(
    config: Config, endpoints: Endpoints, directory: Directory, feed: DenialFeed
) -> None:
    await directory.announce(config.advertise or _dialable(endpoints.internal))
    await feed.begin()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watching:
    """All that goes to and fro between the issuer and the guests' sessions by itself."""

    feed: DenialFeed
    directives: Directives
    bundles: Bundles
    reporter: Reporter

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.feed.run(stop), name="denial-feed")
            group.create_task(self.bundles.run(stop), name="bundle-notices")
            group.create_task(self.reporter.run(stop), name="sightings")


def _watch(
    config: Config,
    issuer: PeerChannel,
    identity: IdentityDirectory,
    registry: Registry,
    gateway_id: str,
) -> _Watching:
    denials, directives = DenialList(), Directives(registry)
    timeout = config.issuer_timeout.total_seconds()
    poll = config.denial_poll.total_seconds()
    bundles = Bundles(issuer, identity, registry, interval=poll, timeout=timeout)
    reporter = Reporter(
        issuer,
        registry,
        gateway_id=gateway_id,
        flush=config.sighting_flush.total_seconds(),
        refresh=config.sighting_refresh.total_seconds(),
        limit=config.sightings_limit,
        timeout=timeout,
    )

    def hear(response: watch_pb.WatchResponse) -> None:
        bundles.hear(response)
        directives.hear(response)

    feed = DenialFeed(
        issuer,
        denials,
        watcher=gateway_id,
        pace=Pace(
            poll=poll,
            backstop=config.denial_backstop.total_seconds(),
            silence=config.watch_silence.total_seconds(),
            stale=config.denial_stale.total_seconds(),
            timeout=timeout,
        ),
        changed=lambda: end_denied(registry, denials),
        opened=reporter.tell_all,
        heard=hear,
    )
    return _Watching(feed=feed, directives=directives, bundles=bundles, reporter=reporter)


def _say_goodbye(registry: Registry, sessions: GuestSessionService) -> None:
    settings = guest_pb2.Settings(reconnect_window=sessions.reconnect_window())
    for session in registry:
        session.change_settings(settings)
        session.end(Ending(goodbye=guest_pb2.GOODBYE_REASON_DRAINING))


def _endpoint(listen: str, server: Server) -> str:
    return f"{listen.rpartition(':')[0]}:{server.port}"


def _dialable(endpoint: str) -> str:
    host = endpoint.rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            raise errors.InvalidRequestError(
                f"internal_listen {endpoint!r} is no address to dial; set `advertise`"
            )
    return endpoint


def main() -> int:
    parser = argparse.ArgumentParser(prog="gateway.guest", description="The guest gateway.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    try:
        config = load(
            Config,
            file=arguments.config,
            environment=os.environ,
            prefix="TROVE_GATEWAY_GUEST",
        )
    except errors.TroveError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    process.harden()
    logs.configure("gateway.guest", level=config.log_level)
    metrics.serve_metrics(config.metrics_listen)
    return process.run(lambda stop: serve(config, stop))


if __name__ == "__main__":
    sys.exit(main())
