"""Keeps a service's identity young: new certificate at a third of its life, newest trust bundle.

Make before break: the new certificate is pending at the issuer until the service has used it, so
a reply that is lost or a crash in between leaves the old one in force.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
from collections.abc import Callable

from cryptography import x509

from pki.profiles import SERVICE_BACKDATE
from pki.requests import new_request
from trove_grpc.client import PeerChannel, call
from trove_grpc.errors import TroveError
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.process import wait_or_timeout
from trove_grpc.tls import IdentityDirectory, KeyMaterial

log = logging.getLogger(__name__)

_RENEW_AT = 1 / 3
_TIMEOUT = 10.0
# The bundle is asked for this often, seconds: a rotation waits for its slowest holder.
_BUNDLE_INTERVAL = 60.0
_FIRST_RETRY = 5.0
_LONGEST_RETRY = 60.0


def issue_time(leaf: x509.Certificate) -> dt.datetime:
    """When a service's certificate was signed, to the second."""
    return leaf.not_valid_before_utc + SERVICE_BACKDATE


def due_time(leaf: x509.Certificate) -> dt.datetime:
    """When a service's certificate should be replaced."""
    issued = issue_time(leaf)
    return issued + (leaf.not_valid_after_utc - issued) * _RENEW_AT


class ServiceRenewer:
    """Renews one identity with the issuer until told to stop; never gives up."""

    def __init__(
        self,
        identity: IdentityDirectory,
        issuer: PeerChannel,
        *,
        bundle_interval: float = _BUNDLE_INTERVAL,
        first_retry: float = _FIRST_RETRY,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._identity = identity
        self._issuer = issuer
        self._bundle_interval = bundle_interval
        self._first_retry = first_retry
        self._now = now

    async def run(self, stop: asyncio.Event) -> None:
        retry = self._first_retry
        while not stop.is_set():
            try:
                await self.step()
            except TroveError as error:
                log.warning("identity not refreshed, will be tried again: %s", error)
                pause = retry * random.uniform(0.5, 1.5)  # noqa: S311  jitter
                retry = min(retry * 2, _LONGEST_RETRY)
            else:
                pause, retry = self._pause(), self._first_retry
            await wait_or_timeout(stop, pause)

    async def step(self) -> None:
        """Fetch the bundle; renew when it is time. Raises TroveError when the issuer is away."""
        await self._refresh_bundle()
        if self._now() >= due_time(self._identity.load().leaf):
            await self._renew()

    async def _renew(self) -> None:
        key, request = new_request()
        response = await call(
            self._issuer.stub(rpc.IssuerServiceStub).RenewService,
            pb.RenewServiceRequest(csr_der=request),
            timeout=_TIMEOUT,
            retry=True,
        )
        material = KeyMaterial(key_pem=key, chain_pem=response.chain_pem)
        self._identity.install(material, response.bundle)
        log.info("certificate renewed until %s", material.leaf.not_valid_after_utc)
        # The first use of the new certificate tells the issuer that it arrived.
        await self._refresh_bundle()

    async def _refresh_bundle(self) -> None:
        response = await call(
            self._issuer.stub(rpc.IssuerServiceStub).GetTrustBundle,
            pb.GetTrustBundleRequest(),
            timeout=_TIMEOUT,
            retry=True,
        )
        if self._identity.store_bundle(response.bundle):
            log.info("trust bundle %d received", response.bundle.version)

    def _pause(self) -> float:
        until_due = (due_time(self._identity.load().leaf) - self._now()).total_seconds()
        return max(0.1, min(self._bundle_interval, until_due))
