"""The process: channels to its peers, renewal of its certificate, the HTTP listener."""

from __future__ import annotations

import asyncio
import contextlib

from gateway.rest.config import Config
from gateway.rest.grpc_control_plane import GrpcControlPlane
from gateway.rest.listener import serve_http
from gateway.rest.ports.guests import GrpcGuests
from pki.renewal import ServiceRenewer
from trove_grpc import metrics
from trove_grpc.client import PeerChannel
from trove_grpc.guests import GrpcGateways
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory


async def serve(
    config: Config, stop: asyncio.Event, *, started: asyncio.Future[int] | None = None
) -> None:
    """Serve until `stop`; `started` gets the port that is listened on."""
    identity = IdentityDirectory(config.identity)
    identity.load()  # no identity, no service: say so at once
    metrics.serve_metrics(config.metrics_listen)
    async with (
        contextlib.AsyncExitStack() as stack,
        PeerChannel(config.conductor, identity=identity, server_role=Role.CONDUCTOR) as conductor,
        PeerChannel(
            config.taskmanager, identity=identity, server_role=Role.TASKMANAGER
        ) as taskmanager,
        PeerChannel(config.issuer, identity=identity, server_role=Role.ISSUER) as issuer,
        asyncio.TaskGroup() as group,
    ):
        gateways = GrpcGateways(identity)
        stack.push_async_callback(gateways.close)
        control_plane = GrpcControlPlane(
            conductor=conductor,
            taskmanager=taskmanager,
            guests=GrpcGuests(conductor, gateways, timeout=config.guest_timeout),
            wake_timeout=config.wake_timeout,
        )
        renewer = ServiceRenewer(identity, issuer)
        group.create_task(renewer.run(stop), name="renew-identity")
        group.create_task(
            serve_http(config, control_plane, stop, started=started), name="serve-http"
        )
