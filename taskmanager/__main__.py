"""The task manager's process: `python -m taskmanager --config FILE`. Wiring, nothing else."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pki import shared_metrics
from pki.denials import DenialList
from pki.feed import DenialFeed
from pki.renewal import ServiceRenewer
from taskmanager.compute import Flavor
from taskmanager.compute.local import LocalCompute
from taskmanager.config import Config
from taskmanager.flows import Flows
from taskmanager.grpc_peers import GrpcConductor, GrpcIssuer
from taskmanager.operations import Limits, LoopClock, Services
from taskmanager.operations.apply_configuration import apply_configuration
from taskmanager.operations.create_instance import create_instance
from taskmanager.operations.delete_instance import delete_instance
from taskmanager.operations.resize_instance import resize_flavor, resize_volume
from taskmanager.operations.restart_instance import restart_instance, stop_instance
from taskmanager.service import SERVICE, TaskManagerService
from taskmanager.sweeper import Sweeper
from trove_grpc import errors, logs, metrics, process, readiness
from trove_grpc.client import PeerChannel
from trove_grpc.config import load
from trove_grpc.gen.taskmanager.v1 import task_manager_service_pb2_grpc as rpc
from trove_grpc.guests import GrpcGateways, SessionGuests
from trove_grpc.identity import Role
from trove_grpc.server import build_internal_server
from trove_grpc.tls import IdentityDirectory

log = logging.getLogger(__name__)

# Flow names are the conductor's operation kinds.
OPERATIONS = {
    "apply_configuration": apply_configuration,
    "create_instance": create_instance,
    "restart_instance": restart_instance,
    "stop_instance": stop_instance,
    "resize_volume": resize_volume,
    "resize_flavor": resize_flavor,
    "delete_instance": delete_instance,
}


async def serve(
    config: Config,
    stop: asyncio.Event,
    *,
    started: Callable[[int], None] | None = None,
) -> None:
    """Run the task manager until `stop`; `started` hears the port it listens on."""
    identity = IdentityDirectory(config.identity)
    shared_metrics.show_bundle_version("taskmanager", identity)
    async with contextlib.AsyncExitStack() as stack:
        conductor_channel = await stack.enter_async_context(
            PeerChannel(config.conductor, identity=identity, server_role=Role.CONDUCTOR)
        )
        issuer_channel = await stack.enter_async_context(
            PeerChannel(config.issuer, identity=identity, server_role=Role.ISSUER)
        )
        gateways = GrpcGateways(identity)
        stack.push_async_callback(gateways.close)
        compute = _compute(config)
        stack.push_async_callback(compute.close)
        conductor = GrpcConductor(conductor_channel)
        services = Services(
            conductor=conductor,
            issuer=GrpcIssuer(issuer_channel),
            compute=compute,
            guests=SessionGuests(conductor.lookup_session, gateways),
            bundle=identity.bundle,
            enrolment_endpoints=config.enrolment_endpoints,
            guest_endpoints=config.guest_endpoints,
            limits=Limits(
                agent=config.agent_deadline,
                engine=config.engine_deadline,
                outage=config.outage_deadline,
            ),
            clock=LoopClock(),
        )
        flows = await stack.enter_async_context(
            Flows(
                database_url=config.flow_database_url,
                executor_id=config.executor_id,
                functions={
                    name: functools.partial(function, services=services)
                    for name, function in OPERATIONS.items()
                },
                concurrency=config.flow_concurrency,
                password_file=config.flow_database_password_file,
                lease=config.flow_lease,
            )
        )
        sweeper = Sweeper(
            conductor,
            flows,
            kinds=OPERATIONS,
            interval=config.sweep_interval,
            retention=config.flow_retention,
        )
        feed = DenialFeed(issuer_channel, DenialList(), watcher="taskmanager")
        service = TaskManagerService(conductor, sweeper, compute)
        server = build_internal_server(
            config.listen,
            identity=identity,
            register=lambda server: rpc.add_TaskManagerServiceServicer_to_server(service, server),
            services=[SERVICE],
            denials=feed,
        )
        await feed.begin()
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(sweeper.run(), name="sweeper"),
                group.create_task(flows.watch(), name="flow-takeover"),
                group.create_task(readiness.follow([server], flows.check, stop), name="readiness"),
            ]
            group.create_task(
                ServiceRenewer(identity, issuer_channel).run(stop), name="identity-renewal"
            )
            group.create_task(feed.run(stop), name="denial-feed")
            await server.start()
            try:
                log.info("serving on port %d", server.port)
                if started is not None:
                    started(server.port)
                await stop.wait()
            finally:
                await server.stop(config.drain_timeout.total_seconds())
            for task in background:
                task.cancel()


def _compute(config: Config) -> LocalCompute:
    assert config.supervisor_socket is not None  # noqa: S101  Config saw to it
    flavors = [
        Flavor(
            id=flavor.id,
            name=flavor.name,
            ram_mib=flavor.ram_mib,
            vcpus=flavor.vcpus,
            disk_gib=flavor.disk_gib,
        )
        for flavor in config.flavors
    ]
    return LocalCompute(config.supervisor_socket, flavors)


def main() -> int:
    parser = argparse.ArgumentParser(prog="taskmanager", description="The task manager.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    try:
        config = load(
            Config, file=arguments.config, environment=os.environ, prefix="TROVE_TASKMANAGER"
        )
    except errors.TroveError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    process.harden()
    logs.configure("taskmanager", level=config.log_level)
    try:
        metrics.serve_metrics(config.metrics_listen)
    except errors.TroveError as error:
        log.critical("%s", error)
        return 1
    return process.run(lambda stop: serve(config, stop))


if __name__ == "__main__":
    sys.exit(main())
