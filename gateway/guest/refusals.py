"""What this gateway refuses, told to the issuer's audit.

Refusals of one reason, caller and address become one entry with a count, and at most `_KINDS`
entries are kept between two tellings: whoever is refused ever so often, in ever so many ways,
costs a bounded number of rows. What does not fit counts under `OTHERS`, so no count is lost. While
the issuer is away entries wait and grow; a gateway that ends tells what it has.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import grpc

from gateway.guest.addresses import peer_address
from trove_grpc import errors, process
from trove_grpc.client import PeerChannel, call
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as issuer_rpc
from trove_grpc.identity import Identity

log = logging.getLogger(__name__)

OTHERS = "OTHERS"
_KINDS = 32
_MAX_MESSAGE = 255
# What says that a caller may not, or did what it must not. The rest is weather: somebody away, a
# lost race, a deadline.
_TELLING = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
# The issuer writes these down itself when it gives them.
_WRITTEN_BY_ISSUER = frozenset(
    {"TOKEN_REFUSED", "STALE_SERIAL", "CSR_KEY_REUSED", "UNKNOWN_CERTIFICATE"}
)

_Key = tuple[str, str, str]  # reason, caller, address


@dataclass(slots=True)
class _Entry:
    message: str
    count: int = 0


class RefusalJournal:
    """Counts refusals and tells them. `note` is what servers call; it never waits."""

    def __init__(self, issuer: PeerChannel, *, interval: float, timeout: float) -> None:
        self._issuer = issuer
        self._interval = interval
        self._timeout = timeout
        self._entries: dict[_Key, _Entry] = {}

    def note(self, error: errors.TroveError, caller: Identity | None, peer: str) -> None:
        """Count one refusal; fits trove_grpc.interceptors.Refused."""
        if error.status not in _TELLING or error.reason in _WRITTEN_BY_ISSUER:
            return
        self._count(
            (error.reason, caller.uri if caller else "", peer_address(peer)), error.message, 1
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Tell every `interval` until `stop`, and then what is left."""
        while not await process.wait_or_timeout(stop, self._interval):
            await self.tell()
        await self.tell()

    async def tell(self) -> None:
        """Tell what there is; what could not be told waits for the next time."""
        told, self._entries = self._entries, {}
        if not told:
            return
        request = issuer_pb2.RecordRefusalsRequest(
            refusals=[
                issuer_pb2.Refusal(
                    reason=reason,
                    caller=caller,
                    peer_address=address,
                    message=entry.message,
                    count=entry.count,
                )
                for (reason, caller, address), entry in told.items()
            ]
        )
        try:
            stub = self._issuer.stub(issuer_rpc.IssuerServiceStub)
            await call(stub.RecordRefusals, request, timeout=self._timeout)
        except errors.TroveError as error:
            log.warning("%d kinds of refusals wait for the audit: %s", len(told), error.message)
            for key, entry in told.items():
                self._count(key, entry.message, entry.count)

    def _count(self, key: _Key, message: str, count: int) -> None:
        if key not in self._entries and len(self._entries) >= _KINDS:
            key, message = (OTHERS, "", ""), "more kinds of refusals than are kept apart"
        entry = self._entries.setdefault(key, _Entry(message[:_MAX_MESSAGE]))
        entry.count += count
