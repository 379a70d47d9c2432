"""Commands find their gateway: one lookup, one more try."""

import asyncio
import datetime as dt

import pytest
from google.protobuf import duration_pb2

from tests.fakes.taskmanager_peers import INSTANCE, FakeConductor
from trove_grpc import guests as guests_module
from trove_grpc.errors import (
    InvalidRequestError,
    NotFoundError,
    SessionMovedError,
    UnavailableError,
)
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.guests import SessionGuests

COMMAND = guest_pb2.Command(
    command_id="c1", timeout=duration_pb2.Duration(seconds=7), ping=guest_pb2.PingAction()
)


class FakeGateways:
    """Holds sessions by address; a wrong address answers SESSION_MOVED."""

    def __init__(self) -> None:
        self.holder = "a:1"
        self.errors: list[Exception] = []
        self.calls: list[str] = []
        self.timeout = 0.0
        self.result = guest_pb2.CommandResult(command_id="c1")

    async def send_command(self, address, request, *, timeout):
        self.calls.append(address)
        self.timeout = timeout
        if self.errors:
            raise self.errors.pop(0)
        if address != self.holder:
            raise SessionMovedError(f"not at {address}")
        return dispatch_service_pb2.SendCommandResponse(result=self.result)


@pytest.fixture
def conductor():
    conductor = FakeConductor()
    conductor.sessions[INSTANCE] = "a:1"
    return conductor


@pytest.fixture
def gateways():
    return FakeGateways()


@pytest.fixture
def guests(conductor, gateways):
    return SessionGuests(conductor.lookup_session, gateways)


async def test_the_gateway_is_looked_up_once_and_remembered(guests, conductor, gateways):
    await guests.send_command(INSTANCE, COMMAND)
    await guests.send_command(INSTANCE, COMMAND)
    assert conductor.lookups == 1
    assert gateways.calls == ["a:1", "a:1"]


async def test_the_call_waits_longer_than_the_guest_may_take(guests, gateways):
    await guests.send_command(INSTANCE, COMMAND)
    assert gateways.timeout > dt.timedelta(seconds=7).total_seconds()


async def test_a_moved_session_costs_one_lookup_and_one_more_try(guests, conductor, gateways):
    await guests.send_command(INSTANCE, COMMAND)
    conductor.sessions[INSTANCE] = gateways.holder = "b:1"
    await guests.send_command(INSTANCE, COMMAND)
    assert gateways.calls == ["a:1", "a:1", "b:1"]
    assert conductor.lookups == 2


async def test_a_gateway_that_died_costs_one_lookup_and_one_more_try(guests, conductor, gateways):
    gateways.errors = [UnavailableError("connection refused")]
    conductor.sessions[INSTANCE] = "a:1"
    await guests.send_command(INSTANCE, COMMAND)
    assert gateways.calls == ["a:1", "a:1"]


async def test_a_session_that_keeps_moving_is_left_to_the_step_to_retry(guests, gateways):
    gateways.holder = "c:1"
    with pytest.raises(UnavailableError) as caught:
        await guests.send_command(INSTANCE, COMMAND)
    assert caught.value.reason == "SESSION_MOVING"
    assert len(gateways.calls) == 2


async def test_a_guest_without_session_is_unavailable_not_unknown(guests, conductor):
    conductor.sessions.clear()
    with pytest.raises(UnavailableError, match="its agent is not connected") as caught:
        await guests.send_command(INSTANCE, COMMAND)
    assert caught.value.reason == "NO_SESSION"
    assert not isinstance(caught.value, NotFoundError)


@pytest.mark.parametrize(
    ("failed", "reason"),
    [
        (SessionMovedError("not here"), "NO_SESSION"),
        (SessionMovedError("ended", reason="SESSION_ENDED"), "SESSION_LOST"),
        (UnavailableError("broken"), "SESSION_LOST"),
    ],
)
async def test_a_guest_that_goes_meanwhile_may_have_done_what_was_sent(
    guests, conductor, gateways, failed, reason
):
    await guests.send_command(INSTANCE, COMMAND)
    conductor.sessions.clear()
    gateways.errors = [failed]
    with pytest.raises(UnavailableError) as caught:
        await guests.send_command(INSTANCE, COMMAND)
    assert caught.value.reason == reason


async def test_the_guests_own_error_comes_back_as_its_kind(guests, gateways):
    gateways.result = guest_pb2.CommandResult(
        command_id="c1", error_reason="INVALID_REQUEST", error_message="no such encoding"
    )
    with pytest.raises(InvalidRequestError, match="no such encoding"):
        await guests.send_command(INSTANCE, COMMAND)


async def test_only_a_bounded_number_of_gateways_is_remembered(guests, conductor, monkeypatch):
    monkeypatch.setattr(guests_module, "_REMEMBERED", 2)
    for name in ("i1", "i2", "i3"):
        conductor.sessions[name] = "a:1"
        await guests.send_command(name, COMMAND)
    await guests.send_command("i3", COMMAND)
    assert conductor.lookups == 3
    await guests.send_command("i1", COMMAND)
    assert conductor.lookups == 4


async def test_many_commands_at_once_do_not_mix(guests, conductor):
    for number in range(20):
        conductor.sessions[f"i{number}"] = "a:1"
    results = await asyncio.gather(
        *(guests.send_command(f"i{number}", COMMAND) for number in range(20))
    )
    assert {result.command_id for result in results} == {"c1"}
