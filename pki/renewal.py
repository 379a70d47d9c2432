"""Keeps a service's identity young: new certificate at a third of its life, newest trust bundle.

Sooner when the issuer demands it (`renew_before`), or when another generation of the service
authority signs now; then after a moment of chance, so that the services do not come at once. What
the service holds is told with every look at the bundle: a rotation waits for it.

Make before break: the new certificate is pending at the issuer until the service has used it, so
a reply that is lost or a crash in between leaves the old one in force.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
from collections.abc import Callable
from typing import TypeAlias

from cryptography import x509

from pki.profiles import SERVICE_BACKDATE
from pki.requests import new_request
from trove_grpc.client import PeerChannel, call
from trove_grpc.errors import TroveError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.process import wait_or_timeout
from trove_grpc.tls import IdentityDirectory, KeyMaterial

log = logging.getLogger(__name__)

_RENEW_AT = 1 / 3
_TIMEOUT = 10.0
# The bundle is asked for this often, seconds, unless the issuer wants it sooner: a rotation waits
# for its slowest holder.
_BUNDLE_INTERVAL = 60.0
_SHORTEST_INTERVAL = 1.0
# A renewal that the issuer or a rotation wants happens within so many seconds.
_SPREAD = 5.0
_FIRST_RETRY = 5.0
_LONGEST_RETRY = 60.0

# The bundle's version, and the time before which certificates must not have been issued.
_Wish: TypeAlias = "tuple[int, dt.datetime | None]"


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
        spread: float = _SPREAD,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._identity = identity
        self._issuer = issuer
        self._bundle_interval = bundle_interval
        self._first_retry = first_retry
        self._spread = spread
        self._now = now
        self._interval = bundle_interval
        self._renew_before: dt.datetime | None = None
        # When the present certificate is to be replaced before its time.
        self._early: tuple[str, dt.datetime] | None = None
        # The wish that was followed last: one that stays is not followed without pause.
        self._followed: _Wish | None = None

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
        if self._now() >= self._due_time():
            await self.renew()

    def _due_time(self) -> dt.datetime:
        leaf = self._identity.load().leaf
        usual = due_time(leaf)
        if not self._is_wanted_early(leaf):
            self._early = None
            return usual
        serial = f"{leaf.serial_number:x}"
        if self._early is None or self._early[0] != serial:
            delay = self._spread * random.random()  # noqa: S311  a spread, not a secret
            if self._wish() == self._followed:
                delay += self._bundle_interval
            self._early = serial, self._now() + dt.timedelta(seconds=delay)
        return min(usual, self._early[1])

    def _wish(self) -> _Wish:
        return self._identity.bundle().version, self._renew_before

    def _is_wanted_early(self, leaf: x509.Certificate) -> bool:
        if self._renew_before is not None and issue_time(leaf) < self._renew_before:
            return True
        active = _active_key_id(self._identity.bundle())
        return active is not None and active != _issuer_key_id(leaf)

    async def renew(self) -> None:
        """Take a new certificate now, due or not."""
        key, request = new_request()
        response = await call(
            self._issuer.stub(rpc.IssuerServiceStub).RenewService,
            pb.RenewServiceRequest(csr_der=request),
            timeout=_TIMEOUT,
            retry=True,
        )
        self._followed = self._wish()
        material = KeyMaterial(key_pem=key, chain_pem=response.chain_pem)
        self._identity.install(material, response.bundle)
        log.info("certificate renewed until %s", material.leaf.not_valid_after_utc)
        # The first use of the new certificate tells the issuer that it arrived.
        await self._refresh_bundle()

    async def _refresh_bundle(self) -> None:
        response = await call(
            self._issuer.stub(rpc.IssuerServiceStub).GetTrustBundle,
            pb.GetTrustBundleRequest(held_version=self._identity.bundle().version),
            timeout=_TIMEOUT,
            retry=True,
        )
        self._note_wishes(response)
        if self._identity.store_bundle(response.bundle):
            log.info("trust bundle %d received", response.bundle.version)
            self._interval = 0.0  # it is held now: say so at once

    def _note_wishes(self, response: pb.GetTrustBundleResponse) -> None:
        self._interval = self._bundle_interval
        if response.HasField("poll_after"):
            wanted = response.poll_after.ToTimedelta().total_seconds()
            self._interval = min(self._interval, max(_SHORTEST_INTERVAL, wanted))
        self._renew_before = None
        if response.HasField("renew_before"):
            self._renew_before = response.renew_before.ToDatetime(dt.UTC)

    def _pause(self) -> float:
        until_due = (self._due_time() - self._now()).total_seconds()
        return max(0.1, min(self._interval, until_due))


def _active_key_id(bundle: trust_pb2.TrustBundle) -> bytes | None:
    """The key identifier of the service authority that signs; None while none does."""
    for authority in bundle.authorities:
        if (
            authority.kind == trust_pb2.AUTHORITY_KIND_SERVICE
            and authority.state == trust_pb2.AUTHORITY_STATE_ACTIVE
        ):
            certificate = x509.load_pem_x509_certificate(authority.certificate_pem)
            extension = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
            return extension.value.digest
    return None


def _issuer_key_id(leaf: x509.Certificate) -> bytes | None:
    extension = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return extension.value.key_identifier
