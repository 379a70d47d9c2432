"""Tells guests that the trust bundle has grown; they fetch it themselves."""

from __future__ import annotations

import asyncio
import logging

from gateway.guest.registry import Registry
from trove_grpc import process
from trove_grpc.tls import IdentityDirectory

log = logging.getLogger(__name__)


async def announce_bundles(
    identity: IdentityDirectory, registry: Registry, stop: asyncio.Event, *, interval: float
) -> None:
    """Watch our own bundle, which the renewer keeps up to date, until `stop`."""
    known = identity.bundle().version
    while not await process.wait_or_timeout(stop, interval):
        version = identity.bundle().version
        if version <= known:
            continue
        log.info("trust bundle version %d; telling %d sessions", version, len(registry))
        for session in registry:
            session.announce_bundle(version)
        known = version
