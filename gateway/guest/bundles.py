"""Keeps our own trust bundle the newest and tells guests that it has grown; they fetch it."""

from __future__ import annotations

import asyncio
import logging

from gateway.guest.registry import Registry
from pki import shared_metrics
from trove_grpc import errors, process
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as issuer_rpc
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as watch_pb
from trove_grpc.tls import IdentityDirectory

log = logging.getLogger(__name__)


class Bundles:
    """Follows the bundle: at once when Watch tells, at the latest when our renewer fetched it."""

    def __init__(
        self,
        issuer: PeerChannel,
        identity: IdentityDirectory,
        registry: Registry,
        *,
        interval: float,
        timeout: float,
    ) -> None:
        self._issuer = issuer
        self._identity = identity
        self._registry = registry
        self._interval = interval
        self._timeout = timeout
        self._told = 0  # the version that Watch named last
        self._news = asyncio.Event()
        shared_metrics.show_bundle_version("gateway", identity)

    def hear(self, response: watch_pb.WatchResponse) -> None:
        self._told = max(self._told, response.bundle_version)
        if self._told > self._identity.bundle().version:
            self._news.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Announce each newer version to every session until `stop`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._announce(stop), name="bundle-notices")
            await stop.wait()
            self._news.set()  # or it would go on waiting

    async def _announce(self, stop: asyncio.Event) -> None:
        known = self._identity.bundle().version
        while not stop.is_set():
            await process.wait_or_timeout(self._news, self._interval)
            self._news.clear()
            if self._told > self._identity.bundle().version:
                await self._fetch()
            version = self._identity.bundle().version
            if version > known:
                log.info(
                    "trust bundle version %d; telling %d sessions", version, len(self._registry)
                )
                for session in self._registry:
                    session.announce_bundle(version)
                known = version

    async def _fetch(self) -> None:
        """Hold the newest bundle, then say so: rotations wait for that."""
        try:
            while self._identity.store_bundle(await self._get()):
                pass
        except errors.TroveError as error:
            log.warning("cannot fetch trust bundle %d: %s", self._told, error.message)

    async def _get(self) -> trust_pb2.TrustBundle:
        response = await call(
            self._issuer.stub(issuer_rpc.IssuerServiceStub).GetTrustBundle,
            issuer_pb2.GetTrustBundleRequest(held_version=self._identity.bundle().version),
            timeout=self._timeout,
            retry=True,
        )
        bundle: trust_pb2.TrustBundle = response.bundle
        return bundle
