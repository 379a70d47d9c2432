from __future__ import annotations

import pytest

from gateway.guest.commands import CommandTable
from trove_grpc import errors
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb2


def ping(command_id="c-1"):
    return pb2.Command(command_id=command_id, ping=pb2.PingAction())


def answer(command_id="c-1"):
    return pb2.CommandResult(command_id=command_id, ping=pb2.PingResult())


async def test_same_id_joins_the_command_on_its_way():
    table = CommandTable(limit=1)
    first, second = table.submit(ping(), 5), table.submit(ping(), 5)
    assert first is second
    assert table.next_unsent().command_id == "c-1"
    assert table.next_unsent() is None
    assert table.answer(answer())
    assert first.answer.result().command_id == "c-1"


async def test_leaving_waiter_leaves_the_other_its_answer():
    table = CommandTable(limit=1)
    pending = table.submit(ping(), 5)
    table.submit(ping(), 5)
    table.release(pending)
    assert table.answer(answer())
    table.release(pending)
    assert len(table) == 0


async def test_full_table_refuses_and_an_answer_makes_room():
    table = CommandTable(limit=1)
    table.submit(ping("a"), 5)
    with pytest.raises(errors.OverloadedError):
        table.submit(ping("b"), 5)
    table.answer(answer("a"))
    table.submit(ping("b"), 5)


async def test_command_nobody_waits_for_is_not_sent():
    table = CommandTable(limit=2)
    table.release(table.submit(ping(), 5))
    assert table.next_unsent() is None
    assert not table.answer(answer())


async def test_command_is_sent_with_the_time_it_has_left():
    table = CommandTable(limit=2)
    table.submit(ping(), 5)
    assert 0 < table.next_unsent().timeout.ToMilliseconds() <= 5000


async def test_command_whose_time_is_over_is_not_sent():
    table = CommandTable(limit=2)
    table.submit(ping("late"), 0)
    table.submit(ping("next"), 5)
    assert table.next_unsent().command_id == "next"


async def test_adopted_commands_are_sent_again():
    old, new = CommandTable(limit=2), CommandTable(limit=2)
    pending = old.submit(ping(), 5)
    old.next_unsent()
    new.adopt(old)
    old.fail(errors.SessionMovedError("over"))
    assert new.next_unsent().command_id == "c-1"
    new.answer(answer())
    assert pending.answer.result().command_id == "c-1"


async def test_answer_of_another_kind_is_an_error():
    table = CommandTable(limit=1)
    pending = table.submit(ping(), 5)
    table.answer(pb2.CommandResult(command_id="c-1", engine=pb2.EngineResult()))
    assert pending.answer.exception().reason == "BAD_RESULT"


@pytest.mark.parametrize("reason", ["SESSION_MOVED", "UNAUTHENTICATED", "no reason\n", "X" * 65])
async def test_guest_cannot_speak_with_the_control_planes_reasons(reason):
    table = CommandTable(limit=1)
    pending = table.submit(ping(), 5)
    table.answer(
        pb2.CommandResult(command_id="c-1", error_reason=reason, error_message="m" * 5000)
    )
    error = pending.answer.exception()
    assert error.reason == "COMMAND_FAILED"
    assert len(error.message) == 2048


async def test_guests_own_reason_reaches_the_caller_as_its_class():
    table = CommandTable(limit=1)
    pending = table.submit(ping(), 5)
    table.answer(
        pb2.CommandResult(command_id="c-1", error_reason="CONFLICT", error_message="already")
    )
    assert isinstance(pending.answer.exception(), errors.ConflictError)
