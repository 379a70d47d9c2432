"""Whose enrolments wait for whose."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from gateway.guest.enrolment import EnrolmentService
from trove_grpc import errors
from trove_grpc.gen.guest.v1 import enrolment_service_pb2 as pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2


class Peer:
    """A call's context, as far as it is asked."""

    def __init__(self, address: str) -> None:
        self._address = address

    def peer(self) -> str:
        return f"ipv4:{self._address}:5000"


class SlowIssuer:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.lets = asyncio.Event()
        self.asked = asyncio.Semaphore(0)

    def stub(self, _stub: object) -> SlowIssuer:
        return self

    async def GetRecoveryNonce(self, _request, **_options):
        self.asked.release()
        await self.lets.wait()
        return issuer_pb2.GetRecoveryNonceResponse()


class FreshFeed:
    def require_fresh(self) -> None:
        return


async def test_one_address_never_takes_the_places_of_all():
    issuer = SlowIssuer()
    service = EnrolmentService(
        issuer,  # type: ignore[arg-type]
        FreshFeed(),  # type: ignore[arg-type]
        at_once=4,
        failures_per_minute=10,
        timeout=5,
    )
    request = pb2.GetNonceRequest(instance_id=str(uuid.uuid4()))
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(service.GetNonce(request, Peer("192.0.2.1")))
        for _ in range(2):
            await issuer.asked.acquire()
        with pytest.raises(errors.OverloadedError):
            await service.GetNonce(request, Peer("192.0.2.1"))
        other = group.create_task(service.GetNonce(request, Peer("192.0.2.2")))
        issuer.lets.set()
    assert other.result() == pb2.GetNonceResponse()
    await service.GetNonce(request, Peer("192.0.2.1"))


class StaleFeed:
    def require_fresh(self) -> None:
        raise errors.UnavailableError("stale", reason="DENIALS_STALE")


async def test_nobody_enrols_while_denials_may_be_stale():
    issuer = SlowIssuer()
    service = EnrolmentService(
        issuer,  # type: ignore[arg-type]
        StaleFeed(),  # type: ignore[arg-type]
        at_once=4,
        failures_per_minute=10,
        timeout=5,
    )
    request = pb2.GetNonceRequest(instance_id=str(uuid.uuid4()))
    with pytest.raises(errors.UnavailableError):
        await service.GetNonce(request, Peer("192.0.2.1"))
