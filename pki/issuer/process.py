"""The issuer's process: its own identity, two listeners, upkeep."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import secrets
from collections.abc import Callable

from grpc import aio

from pki import metrics as issuer_metrics
from pki.custody import check_directory
from pki.issuer import bootstrap, inventory
from pki.issuer.agent_service import AgentServicer
from pki.issuer.audit_service import AuditServicer
from pki.issuer.authority_service import AuthorityServicer
from pki.issuer.breakglass_service import BreakglassServicer
from pki.issuer.census import Census
from pki.issuer.config import Config
from pki.issuer.custody import open_custody
from pki.issuer.diary import Diary
from pki.issuer.directives import directives
from pki.issuer.federation_service import FederationServicer
from pki.issuer.news import News
from pki.issuer.own_identity import OwnIdentity
from pki.issuer.rotator import Observe, Rotator
from pki.issuer.service import IssuerServicer
from pki.issuer.services import Services
from pki.issuer.tally import RenewalTally
from pki.issuer.watch_service import WatchServicer
from pki.store import Store
from trove_grpc import metrics, readiness
from trove_grpc.errors import TroveError
from trove_grpc.gen.issuer.v1 import agent_service_pb2 as agent_pb
from trove_grpc.gen.issuer.v1 import agent_service_pb2_grpc as agent_rpc
from trove_grpc.gen.issuer.v1 import audit_service_pb2 as audit_pb
from trove_grpc.gen.issuer.v1 import audit_service_pb2_grpc as audit_rpc
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as authority_pb
from trove_grpc.gen.issuer.v1 import authority_service_pb2_grpc as authority_rpc
from trove_grpc.gen.issuer.v1 import breakglass_service_pb2 as breakglass_pb
from trove_grpc.gen.issuer.v1 import breakglass_service_pb2_grpc as breakglass_rpc
from trove_grpc.gen.issuer.v1 import federation_service_pb2 as federation_pb
from trove_grpc.gen.issuer.v1 import federation_service_pb2_grpc as federation_rpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as watch_pb
from trove_grpc.gen.issuer.v1 import watch_service_pb2_grpc as watch_rpc
from trove_grpc.process import wait_or_timeout
from trove_grpc.server import build_internal_server, build_local_server

log = logging.getLogger(__name__)

_SERVICES = [
    service.full_name
    for descriptor in (
        pb.DESCRIPTOR,
        authority_pb.DESCRIPTOR,
        watch_pb.DESCRIPTOR,
        audit_pb.DESCRIPTOR,
        agent_pb.DESCRIPTOR,
        breakglass_pb.DESCRIPTOR,
        federation_pb.DESCRIPTOR,
    )
    for service in descriptor.services_by_name.values()
]
_GRACE = 5.0
# How often expired rows are dropped, seconds.
_UPKEEP = 30.0


async def serve(
    config: Config,
    stop: asyncio.Event,
    started: Callable[[int], None] = lambda _port: None,
    observe: Observe = lambda _phase, _point: None,
) -> None:
    """Serve until `stop`; `started` is told the port of the internal listener.

    `observe` is told where a rotation stands between any two of its steps.
    """
    store = Store(config.database_url, password_file=config.database_password_file)
    try:
        await _serve(config, store, stop, started, observe)
    finally:
        store.close()


async def _serve(
    config: Config,
    store: Store,
    stop: asyncio.Event,
    started: Callable[[int], None],
    observe: Observe,
) -> None:
    await asyncio.to_thread(store.migrate)
    custody = open_custody(config)
    diary = Diary(store, custody, config)
    await asyncio.to_thread(diary.open)
    signers = await store.run(lambda session: bootstrap.load(session, custody))
    keeper = OwnIdentity(store, Services(signers, config), config)
    tally = RenewalTally()
    rotator = Rotator(
        store, custody, signers, config, owner=_owner(config), tally=tally, observe=observe
    )
    await keeper.refresh()
    news = News(store, directives, poll=config.denial_poll.total_seconds())
    await news.refresh()

    servicer = IssuerServicer(store, signers, config, refusals=diary.refusals, tally=tally)
    rotating = AuthorityServicer(store, signers, rotator, config)
    watching = WatchServicer(store, news, config)
    agents = AgentServicer(store, config)
    emergencies = BreakglassServicer(store, signers, config)
    regions = FederationServicer(store, config)

    def register(server: aio.Server) -> None:
        rpc.add_IssuerServiceServicer_to_server(servicer, server)
        authority_rpc.add_AuthorityServiceServicer_to_server(rotating, server)
        watch_rpc.add_WatchServiceServicer_to_server(watching, server)
        audit_rpc.add_AuditServiceServicer_to_server(AuditServicer(store, diary), server)
        agent_rpc.add_AgentServiceServicer_to_server(agents, server)
        breakglass_rpc.add_BreakglassServiceServicer_to_server(emergencies, server)
        federation_rpc.add_FederationServiceServicer_to_server(regions, server)

    config.operator_socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # On that socket nobody is asked for a certificate: its directory is the lock.
    check_directory(config.operator_socket.parent)
    local = build_local_server(
        config.operator_socket, register=register, refused=diary.refusals.refused
    )
    internal = build_internal_server(
        config.listen,
        identity=keeper.identity,
        register=register,
        services=_SERVICES,
        denials=news.refused,
        refused=diary.refusals.refused,
    )
    _serve_metrics(config, store)
    await local.start()
    await internal.start()
    log.info("issuer serves on port %d and %s", internal.port, config.operator_socket)
    started(internal.port)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(news.run(stop), name="news")
            tasks.create_task(
                readiness.follow([internal, local], store.check, stop), name="readiness"
            )
            tasks.create_task(diary.follow(stop), name="diary")
            tasks.create_task(emergencies.follow(stop), name="breakglass")
            tasks.create_task(rotator.run(stop), name="rotations")
            tasks.create_task(Census(store, config).run(stop), name="census")
            tasks.create_task(_keep_identity(keeper, config, stop), name="identity")
            tasks.create_task(_upkeep(store, config, stop), name="upkeep")
    finally:
        await internal.stop(_GRACE)
        await local.stop(_GRACE)
        config.operator_socket.unlink(missing_ok=True)


def _serve_metrics(config: Config, store: Store) -> None:
    issuer_metrics.DATABASE_WAITING.set_function(lambda: store.waiting)
    issuer_metrics.DATABASE_WAITING_LIMIT.set(store.max_waiting)
    metrics.serve_metrics(config.metrics_listen)


async def _keep_identity(keeper: OwnIdentity, config: Config, stop: asyncio.Event) -> None:
    """As often as rotations are looked at: we are one of those that a rotation waits for."""
    while not await wait_or_timeout(stop, config.rotation_poll.total_seconds()):
        try:
            await keeper.refresh()
        except TroveError as error:
            log.warning("own identity not refreshed, will be tried again: %s", error)


async def _upkeep(store: Store, config: Config, stop: asyncio.Event) -> None:
    while not await wait_or_timeout(stop, _UPKEEP):
        try:
            await store.run(
                lambda session: inventory.prune(session, config, dt.datetime.now(dt.UTC))
            )
        except TroveError as error:
            log.warning("upkeep failed, will be tried again: %s", error)


def _owner(config: Config) -> str:
    """Names this process in leases: after a restart it is another."""
    return f"{config.host}/{os.getpid()}/{secrets.token_hex(4)}"
