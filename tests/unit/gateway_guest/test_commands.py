from __future__ import annotations

import pytest

from gateway.guest import answers
from gateway.guest.commands import FROM_API, CommandTable
from trove_grpc import errors
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import accounts_pb2
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


def user(name, *databases, **more):
    return engine_pb2.UserSpec(name=name, databases=databases, **more)


@pytest.mark.parametrize(
    "users",
    [
        [user("a"), user("b"), user("c")],
        [user("")],
        [user("a\x1b[2J")],
        [user("a", "line\nbreak")],
        [user("a" * 256)],
        [user("a", host="h" * 256)],
        [user("a", *["d"] * 1001)],
        [user("a", verifier="*9")],
    ],
)
async def test_guest_cannot_answer_more_or_other_than_was_asked_for(users):
    table = CommandTable(limit=1)
    action = accounts_pb2.ListUsersAction(page_size=2)
    pending = table.submit(pb2.Command(command_id="c-1", list_users=action), 5)
    table.answer(pb2.CommandResult(command_id="c-1", users=accounts_pb2.UsersResult(users=users)))
    assert pending.answer.exception().reason == "BAD_RESULT"


@pytest.mark.parametrize("names", [["a", "b", "c"], ["\x00"], [""], ["d" * 256]])
async def test_guest_cannot_answer_with_databases_that_are_none(names):
    table = CommandTable(limit=1)
    action = accounts_pb2.ListDatabasesAction(page_size=2)
    pending = table.submit(pb2.Command(command_id="c-1", list_databases=action), 5)
    databases = [engine_pb2.DatabaseSpec(name=name) for name in names]
    result = accounts_pb2.DatabasesResult(databases=databases)
    table.answer(pb2.CommandResult(command_id="c-1", databases=result))
    assert pending.answer.exception().reason == "BAD_RESULT"


@pytest.mark.parametrize("count", [0, 2])
async def test_one_user_asked_for_is_one_user_answered(count):
    table = CommandTable(limit=1)
    action = accounts_pb2.GetUserAction(name="a")
    pending = table.submit(pb2.Command(command_id="c-1", get_user=action), 5)
    users = accounts_pb2.UsersResult(users=[user("a")] * count)
    table.answer(pb2.CommandResult(command_id="c-1", users=users))
    assert pending.answer.exception().reason == "BAD_RESULT"


def test_every_action_has_a_kind_of_result_and_stands_on_one_side():
    actions = {field.name for field in pb2.Command.DESCRIPTOR.oneofs_by_name["action"].fields}
    assert set(answers.RESULTS) == actions
    assert actions > FROM_API
    assert not FROM_API & {"prepare", "start", "stop", "restart"}


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
