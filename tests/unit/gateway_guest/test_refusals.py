"""The journal of refusals: what it tells, how little room an attacker gets in it."""

from __future__ import annotations

import pytest

from gateway.guest.refusals import OTHERS, RefusalJournal
from trove_grpc import errors
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.identity import Identity, Role

CALLER = Identity(role=Role.GUEST, trust_domain="local.trove", tenant_id="t", instance_id="i")


class Issuer:
    """Takes refusals, or is away."""

    def __init__(self) -> None:
        self.told: list[issuer_pb2.Refusal] = []
        self.is_away = False

    def stub(self, _stub: object) -> Issuer:
        return self

    async def RecordRefusals(self, request, **_options) -> issuer_pb2.RecordRefusalsResponse:
        if self.is_away:
            raise errors.UnavailableError("away")
        self.told.extend(request.refusals)
        return issuer_pb2.RecordRefusalsResponse()


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def journal(issuer: Issuer) -> RefusalJournal:
    return RefusalJournal(issuer, interval=10, timeout=1)  # type: ignore[arg-type]


async def test_refusals_of_one_caller_and_reason_are_told_once_with_their_count(journal, issuer):
    for port in range(3):
        error = errors.PermissionDeniedError("may not")
        journal.note(error, CALLER, f"ipv4:192.0.2.9:{port}")
    await journal.tell()
    await journal.tell()
    (told,) = issuer.told
    assert (told.reason, told.caller, told.peer_address, told.count) == (
        "PERMISSION_DENIED",
        CALLER.uri,
        "192.0.2.9",
        3,
    )


async def test_no_count_is_lost_however_many_kinds_there_are(journal, issuer):
    for number in range(100):
        error = errors.UnauthenticatedError("who?", reason=f"R{number}")
        journal.note(error, None, "ipv4:192.0.2.9:1")
    await journal.tell()
    assert len(issuer.told) == 33
    assert sum(each.count for each in issuer.told) == 100
    assert issuer.told[-1].reason == OTHERS


async def test_what_could_not_be_told_is_told_later(journal, issuer):
    issuer.is_away = True
    journal.note(errors.PermissionDeniedError("may not"), CALLER, "ipv4:192.0.2.9:1")
    await journal.tell()
    journal.note(errors.PermissionDeniedError("may not"), CALLER, "ipv4:192.0.2.9:1")
    issuer.is_away = False
    await journal.tell()
    assert [each.count for each in issuer.told] == [2]


@pytest.mark.parametrize(
    "error",
    [
        errors.UnavailableError("away"),
        errors.DeadlineError("late"),
        errors.SessionMovedError("elsewhere"),
        errors.UnauthenticatedError("told by the issuer itself", reason="TOKEN_REFUSED"),
    ],
)
async def test_weather_and_what_the_issuer_writes_itself_are_no_entries(journal, issuer, error):
    journal.note(error, None, "ipv4:192.0.2.9:1")
    await journal.tell()
    assert issuer.told == []
