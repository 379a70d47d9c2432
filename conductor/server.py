"""The conductor as a whole: database, services, server, and the loops beside them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import AsyncIterator, Callable

from grpc import aio

from conductor import schema
from conductor.config import Config
from conductor.executor import Database
from conductor.presence import PresenceTable
from conductor.sealing import Sealer, load_sealer
from conductor.services.actions import ActionService
from conductor.services.configurations import ConfigurationService
from conductor.services.datastores import DatastoreService
from conductor.services.instances import InstanceService
from conductor.services.management import ManagementService
from conductor.services.modules import ModuleService
from conductor.services.operations import OperationService
from conductor.services.quotas import QuotaService
from conductor.services.rates import RateService
from conductor.services.reports import ReportService
from conductor.services.roots import RootService
from conductor.store import datastores, parameters, rates, reports
from pki import shared_metrics
from pki.denials import DenialList
from pki.feed import DenialFeed
from pki.renewal import ServiceRenewer
from trove_grpc import process, readiness
from trove_grpc.client import PeerChannel
from trove_grpc.errors import TroveError
from trove_grpc.gen.conductor.v1 import (
    action_service_pb2_grpc,
    configuration_service_pb2_grpc,
    datastore_service_pb2_grpc,
    instance_service_pb2_grpc,
    management_service_pb2_grpc,
    module_service_pb2_grpc,
    operation_service_pb2_grpc,
    quota_service_pb2_grpc,
    rate_service_pb2_grpc,
    report_service_pb2_grpc,
    root_service_pb2_grpc,
)
from trove_grpc.identity import Role
from trove_grpc.interceptors import Denials
from trove_grpc.server import build_internal_server
from trove_grpc.tls import IdentityDirectory

log = logging.getLogger(__name__)

Clock = Callable[[], dt.datetime]

SERVICES = (
    "trove.conductor.v1.InstanceService",
    "trove.conductor.v1.ActionService",
    "trove.conductor.v1.ConfigurationService",
    "trove.conductor.v1.DatastoreService",
    "trove.conductor.v1.ModuleService",
    "trove.conductor.v1.ManagementService",
    "trove.conductor.v1.OperationService",
    "trove.conductor.v1.QuotaService",
    "trove.conductor.v1.RateService",
    "trove.conductor.v1.ReportService",
    "trove.conductor.v1.RootService",
)
_TIDY_INTERVAL = dt.timedelta(minutes=10)
# A guest silent for so many deadlines reports elsewhere or is gone: its entry is only memory.
_FORGET_AFTER_DEADLINES = 10


async def serve(
    config: Config,
    stop: asyncio.Event,
    *,
    started: asyncio.Future[int] | None = None,
    now: Clock = lambda: dt.datetime.now(dt.UTC),
) -> None:
    """Serve until `stop`; `started` receives the port."""
    presence = PresenceTable(
        persist_interval=config.presence_persist_interval,
        forget_after=_FORGET_AFTER_DEADLINES * config.presence_deadline,
    )
    sealer = load_sealer(config.sealing_key_file)
    identity = IdentityDirectory(config.identity)
    shared_metrics.show_bundle_version("conductor", identity)
    async with _open_database(config) as database, _open_issuer(config, identity) as issuer:
        feed = None if issuer is None else DenialFeed(issuer, DenialList(), watcher="conductor")
        server = build_internal_server(
            config.listen,
            identity=identity,
            register=lambda server: _register(
                server, config, database, presence, sealer, feed, stop, now
            ),
            services=SERVICES,
            denials=feed,
        )
        if feed is not None:
            await feed.begin()
        await server.start()
        try:
            log.info("serving on %s, port %d", config.listen, server.port)
            if started is not None:
                started.set_result(server.port)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_tidy(config, database, presence, stop, now), name="tidy")
                tasks.create_task(
                    readiness.follow([server], database.check, stop), name="readiness"
                )
                if issuer is not None and feed is not None:
                    tasks.create_task(ServiceRenewer(identity, issuer).run(stop), name="renew")
                    tasks.create_task(feed.run(stop), name="denial-feed")
                await stop.wait()
        finally:
            await server.stop(config.drain_timeout.total_seconds())


def _register(  # noqa: PLR0917  the whole process, in the order in which it is built
    server: aio.Server,
    config: Config,
    database: Database,
    presence: PresenceTable,
    sealer: Sealer,
    denials: Denials | None,
    stop: asyncio.Event,
    now: Clock,
) -> None:
    instance_service_pb2_grpc.add_InstanceServiceServicer_to_server(
        InstanceService(
            config=config, database=database, presence=presence, sealer=sealer, now=now
        ),
        server,
    )
    action_service_pb2_grpc.add_ActionServiceServicer_to_server(
        ActionService(config=config, database=database, now=now), server
    )
    configuration_service_pb2_grpc.add_ConfigurationServiceServicer_to_server(
        ConfigurationService(
            database=database, default_datastore=config.default_datastore, now=now
        ),
        server,
    )
    datastore_service_pb2_grpc.add_DatastoreServiceServicer_to_server(
        DatastoreService(database=database, default_datastore=config.default_datastore, now=now),
        server,
    )
    module_service_pb2_grpc.add_ModuleServiceServicer_to_server(
        ModuleService(database=database, sealer=sealer, now=now), server
    )
    management_service_pb2_grpc.add_ManagementServiceServicer_to_server(
        ManagementService(config=config, database=database, presence=presence, now=now), server
    )
    operation_service_pb2_grpc.add_OperationServiceServicer_to_server(
        OperationService(
            config=config, database=database, presence=presence, sealer=sealer, now=now
        ),
        server,
    )
    quota_service_pb2_grpc.add_QuotaServiceServicer_to_server(
        QuotaService(defaults=config.quotas, database=database), server
    )
    rate_service_pb2_grpc.add_RateServiceServicer_to_server(
        RateService(settings=config.rates, database=database, now=now), server
    )
    root_service_pb2_grpc.add_RootServiceServicer_to_server(
        RootService(database=database, now=now), server
    )
    report_service_pb2_grpc.add_ReportServiceServicer_to_server(
        ReportService(
            config=config,
            database=database,
            presence=presence,
            denials=denials,
            stop=stop,
            now=now,
        ),
        server,
    )


@contextlib.asynccontextmanager
async def _open_issuer(
    config: Config, identity: IdentityDirectory
) -> AsyncIterator[PeerChannel | None]:
    """The way to the issuer, where one is configured: for our own identity and for denials."""
    if not config.issuer:
        yield None
        return
    async with PeerChannel(config.issuer, identity=identity, server_role=Role.ISSUER) as issuer:
        yield issuer


@contextlib.asynccontextmanager
async def _open_database(config: Config) -> AsyncIterator[Database]:
    database = Database(
        config.database_url,
        password_file=config.database_password_file,
        threads=config.database_threads,
        queue=config.database_queue,
    )
    try:
        await asyncio.to_thread(schema.upgrade, database)
        await database.write(datastores.write_datastores, config.datastores)
        await database.write(parameters.seed)
        yield database
    finally:
        await asyncio.to_thread(database.close)


async def _tidy(
    config: Config,
    database: Database,
    presence: PresenceTable,
    stop: asyncio.Event,
    now: Clock,
) -> None:
    """Forget what nobody asks for any more."""
    while not await process.wait_or_timeout(stop, _TIDY_INTERVAL.total_seconds()):
        presence.forget_silent(now())
        try:
            await database.write(reports.forget_requests, before=now() - config.request_retention)
            await database.write(rates.forget_windows, before=now() - _TIDY_INTERVAL)
        except TroveError as error:
            log.warning("could not tidy the database, trying again later: %s", error)
