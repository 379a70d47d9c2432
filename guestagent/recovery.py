"""The way back of an agent whose certificate expired while it was off.

The expired certificate's key proves that it is still the same guest (design: the issuer accepts
that for thirty days). Nothing is given up for it: the old key stays until the next certificate
has been used, and the next key is on disk before its request leaves, so that a lost reply is
answered by asking again.

The first thing asked for is the time. A certificate that has only expired by our own clock is
not recovered from; it is used.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Any

from guestagent import keys
from guestagent.identity import CALL_SECONDS, GuestIdentity
from trove_grpc.client import call, open_enrolment_channel
from trove_grpc.errors import (
    ConflictError,
    InvalidRequestError,
    TroveError,
    UnauthenticatedError,
)
from trove_grpc.gen.guest.v1 import enrolment_service_pb2 as pb
from trove_grpc.gen.guest.v1 import enrolment_service_pb2_grpc as rpc

log = logging.getLogger(__name__)


class Recovery:
    """Asks the gateways' enrolment listeners."""

    def __init__(self, identity: GuestIdentity, endpoints: Sequence[str]) -> None:
        self._identity = identity
        self._endpoints = endpoints

    async def ask_time(self) -> None:
        """Learn the control plane's time. Raises TroveError when nobody answers."""
        async with self._channel() as channel:
            await self._nonce(rpc.EnrolmentServiceStub(channel))

    async def recover(self) -> None:
        """Have the next certificate staged, unless the present one turns out to be good.

        Raises TroveError: what does not get better by itself says so in its reason, and is tried
        again all the same, for a person may change it.
        """
        refusal: TroveError | None = None
        async with self._channel() as channel:
            stub = rpc.EnrolmentServiceStub(channel)
            # The staged one first: its confirmation may have arrived and only the answer not.
            for slot in ("next", "current"):
                if not self._identity.directory.exists(slot):
                    continue
                try:
                    await self._recover_from(slot, stub)
                except (UnauthenticatedError, ConflictError) as error:
                    log.warning(
                        "the %s certificate was not recovered from: %s: %s",
                        slot,
                        error.reason,
                        error.message,
                    )
                    refusal = error
                    continue
                return
        if refusal is not None:
            raise refusal

    async def _recover_from(self, slot: str, stub: Any) -> None:
        identity = self._identity
        expired = identity.directory.load(slot)
        # Before the number, which is good for a minute: a busy machine is slow to make a key.
        key_pem, csr_der = await identity.next_request()
        nonce = await self._nonce(stub)
        if identity.is_usable:
            log.warning("the certificate has not expired: %s", identity.clock_problem)
            return
        signature = await keys.sign(expired.key_pem, nonce, csr_der, identity.me.instance_id)
        request = pb.RecoverRequest(
            instance_id=identity.me.instance_id,
            expired_chain_pem=expired.chain_pem,
            csr_der=csr_der,
            nonce=nonce,
            signature=signature,
            boot_id=identity.me.boot_id,
            machine_id_hash=identity.me.machine_id_hash,
            agent_version=identity.me.agent_version,
        )
        request.guest_time.GetCurrentTime()
        try:
            response = await call(stub.Recover, request, timeout=CALL_SECONDS)
        except InvalidRequestError as error:
            # That key's certificate never came to us and has expired since.
            identity.forget_spent_key(error)
            raise
        if slot == "next":
            # The issuer knows no later one: it is ours for good, with its key.
            identity.directory.promote()
        identity.stage_next(response, key_pem)
        log.warning(
            "recovered: the certificate expired at %s while this agent was off",
            f"{expired.facts.not_valid_after:%FT%TZ}",
        )

    async def _nonce(self, stub: Any) -> bytes:
        response: pb.GetNonceResponse = await call(
            stub.GetNonce,
            pb.GetNonceRequest(instance_id=self._identity.me.instance_id),
            timeout=CALL_SECONDS,
            retry=True,
        )
        self._identity.note_server_time(response.server_time)
        return response.nonce

    def _channel(self) -> Any:
        # Any gateway will do: the number is the issuer's.
        endpoints = random.sample(self._endpoints, len(self._endpoints))
        return open_enrolment_channel(endpoints, self._identity.directory)
