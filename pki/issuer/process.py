"""The issuer's process: its own identity, two listeners, upkeep."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable

from grpc import aio

from pki import renewal
from pki.custody import check_directory
from pki.issuer import bootstrap, inventory
from pki.issuer.audit_service import AuditServicer
from pki.issuer.config import Config
from pki.issuer.custody import open_custody
from pki.issuer.diary import Diary
from pki.issuer.directives import directives
from pki.issuer.news import News
from pki.issuer.service import IssuerServicer
from pki.issuer.services import Services
from pki.issuer.watch_service import WatchServicer
from pki.requests import key_pem, new_key
from pki.store import Store, authorities
from trove_grpc import metrics, readiness
from trove_grpc.errors import TroveError
from trove_grpc.gen.issuer.v1 import audit_service_pb2 as audit_pb
from trove_grpc.gen.issuer.v1 import audit_service_pb2_grpc as audit_rpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as watch_pb
from trove_grpc.gen.issuer.v1 import watch_service_pb2_grpc as watch_rpc
from trove_grpc.identity import Role, check_validity, identify
from trove_grpc.process import wait_or_timeout
from trove_grpc.server import build_internal_server, build_local_server
from trove_grpc.tls import IdentityDirectory, KeyMaterial

log = logging.getLogger(__name__)

_SERVICES = [
    service.full_name
    for descriptor in (pb.DESCRIPTOR, watch_pb.DESCRIPTOR, audit_pb.DESCRIPTOR)
    for service in descriptor.services_by_name.values()
]
_GRACE = 5.0
# How often expired rows are dropped and our own certificate is looked at, seconds.
_UPKEEP = 30.0


async def serve(
    config: Config,
    stop: asyncio.Event,
    started: Callable[[int], None] = lambda _port: None,
) -> None:
    """Serve until `stop`; `started` is told the port of the internal listener."""
    store = Store(config.database_url, password_file=config.database_password_file)
    try:
        await _serve(config, store, stop, started)
    finally:
        store.close()


async def _serve(
    config: Config, store: Store, stop: asyncio.Event, started: Callable[[int], None]
) -> None:
    await asyncio.to_thread(store.migrate)
    custody = open_custody(config)
    diary = Diary(store, custody, config)
    await asyncio.to_thread(diary.open)
    signers = await store.run(lambda session: bootstrap.load(session, custody))
    keeper = OwnIdentity(store, Services(signers, config), config)
    await keeper.refresh()
    news = News(store, directives, poll=config.denial_poll.total_seconds())
    await news.refresh()

    servicer = IssuerServicer(store, signers, config, refusals=diary.refusals)
    watching = WatchServicer(store, news, config)

    def register(server: aio.Server) -> None:
        rpc.add_IssuerServiceServicer_to_server(servicer, server)
        watch_rpc.add_WatchServiceServicer_to_server(watching, server)
        audit_rpc.add_AuditServiceServicer_to_server(AuditServicer(store, diary), server)

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
    metrics.serve_metrics(config.metrics_listen)
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
            tasks.create_task(_upkeep(store, keeper, config, stop), name="upkeep")
    finally:
        await internal.stop(_GRACE)
        await local.stop(_GRACE)
        config.operator_socket.unlink(missing_ok=True)


class OwnIdentity:
    """The issuer's own certificate: signed in process, for there is nobody to ask."""

    def __init__(self, store: Store, services: Services, config: Config) -> None:
        self.identity = IdentityDirectory(config.identity)
        self._store = store
        self._services = services
        self._config = config

    async def refresh(self) -> None:
        """Follow the trust bundle, and renew when a third of the certificate's life is over."""
        bundle = await self._store.run(authorities.bundle)
        self.identity.store_bundle(bundle)
        now = dt.datetime.now(dt.UTC)
        if not self._is_fresh(now):
            key = new_key()
            public_key = key.public_key()
            certificate = await self._store.run(
                lambda session: self._services.enrol(
                    session,
                    role=Role.ISSUER,
                    host=self._config.host,
                    public_key=public_key,
                    actor="issuer",
                    now=now,
                )
            )
            material = KeyMaterial(key_pem=key_pem(key), chain_pem=certificate.chain_pem)
            self.identity.install(material, bundle)

    def _is_fresh(self, now: dt.datetime) -> bool:
        try:
            material, bundle = self.identity.load(), self.identity.bundle()
            check_validity(identify(material.chain_pem, bundle), now)
        except TroveError:
            return False
        return now < renewal.due_time(material.leaf)


async def _upkeep(store: Store, keeper: OwnIdentity, config: Config, stop: asyncio.Event) -> None:
    pause = min(_UPKEEP, config.service_lifetime.total_seconds() / 12)
    while not await wait_or_timeout(stop, pause):
        try:
            await keeper.refresh()
            await store.run(
                lambda session: inventory.prune(session, config, dt.datetime.now(dt.UTC))
            )
        except TroveError as error:
            log.warning("upkeep failed, will be tried again: %s", error)
