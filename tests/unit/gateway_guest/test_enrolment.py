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


class StaleFeed:
    def require_fresh(self) -> None:
        raise errors.UnavailableError("the list of denials is old", reason="DENIALS_STALE")


def service(
    issuer: SlowIssuer,
    *,
    at_once: int = 2,
    line: int = 6,
    feed: FreshFeed | StaleFeed | None = None,
) -> EnrolmentService:
    return EnrolmentService(
        issuer,  # type: ignore[arg-type]
        feed or FreshFeed(),  # type: ignore[arg-type]
        at_once=at_once,
        line=line,
        failures_per_minute=10,
        timeout=5,
    )


REQUEST = pb2.GetNonceRequest(instance_id=str(uuid.uuid4()))


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Enrol", pb2.EnrolRequest(instance_id=str(uuid.uuid4()))),
        ("GetNonce", REQUEST),
        ("Recover", pb2.RecoverRequest(instance_id=str(uuid.uuid4()))),
    ],
)
async def test_while_denials_may_be_old_the_issuer_is_not_even_asked(method, request_):
    enrolment = service(SlowIssuer(), feed=StaleFeed())
    with pytest.raises(errors.UnavailableError) as caught:
        await getattr(enrolment, method)(request_, Peer("192.0.2.1"))
    assert caught.value.reason == "DENIALS_STALE"


async def test_one_address_waits_for_itself_while_another_passes():
    issuer = SlowIssuer()
    enrolment = service(issuer, at_once=4, line=100)
    async with asyncio.TaskGroup() as group:
        crowd = [
            group.create_task(enrolment.GetNonce(REQUEST, Peer("192.0.2.1"))) for _ in range(10)
        ]
        for _ in range(2):
            await issuer.asked.acquire()
        other = group.create_task(enrolment.GetNonce(REQUEST, Peer("192.0.2.2")))
        await issuer.asked.acquire()
        # Of eleven three are with the issuer: two of the crowd, and who came last.
        assert issuer.asked.locked()
        issuer.lets.set()
    assert other.result() == pb2.GetNonceResponse()
    assert len([each.result() for each in crowd]) == 10


async def test_a_line_that_is_too_long_turns_away_and_says_when_to_come_again():
    issuer = SlowIssuer()
    enrolment = service(issuer, at_once=2, line=6)
    async with asyncio.TaskGroup() as group:
        # One at work and three who wait: half of the line, and no more of one address.
        for _ in range(4):
            group.create_task(enrolment.GetNonce(REQUEST, Peer("192.0.2.1")))
        await issuer.asked.acquire()
        with pytest.raises(errors.OverloadedError) as caught:
            await enrolment.GetNonce(REQUEST, Peer("192.0.2.1"))
        assert caught.value.retry_after
        other = group.create_task(enrolment.GetNonce(REQUEST, Peer("192.0.2.2")))
        await issuer.asked.acquire()
        issuer.lets.set()
    assert other.result() == pb2.GetNonceResponse()


async def test_who_gives_up_leaves_the_line():
    issuer = SlowIssuer()
    enrolment = service(issuer, at_once=2, line=6)
    waiting = [
        asyncio.create_task(enrolment.GetNonce(REQUEST, Peer("192.0.2.1"))) for _ in range(4)
    ]
    await issuer.asked.acquire()
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    issuer.lets.set()
    assert await enrolment.GetNonce(REQUEST, Peer("192.0.2.1")) == pb2.GetNonceResponse()
