"""Streams of guests: identity, reports up, commands down, takeover and refusal."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid

import grpc
import pytest
from grpc import aio

from tests.fakes.fake_conductor import until
from trove_grpc import errors
from trove_grpc.client import call
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2 as dispatch_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb2
from trove_grpc.gen.guest.v1 import identity_service_pb2 as identity_pb2
from trove_grpc.identity import Role


def seconds(value):
    return dt.timedelta(seconds=value)


def observation(state=engine_pb2.ENGINE_STATE_HEALTHY, starts=1):
    return engine_pb2.Observation(state=state, start_count=starts)


def heartbeat(starts=1):
    return pb2.Heartbeat(observation=observation(starts=starts))


def change(change_id="change-1"):
    return pb2.Change(change_id=change_id, observation=observation())


def ping(command_id=None):
    return pb2.Command(command_id=command_id or str(uuid.uuid4()), ping=pb2.PingAction())


async def refused(awaitable):
    """The error of a call that must be refused, as our clients see it."""
    with pytest.raises(aio.AioRpcError) as caught:
        await awaitable
    return caught.value.code(), errors.from_rpc(caught.value)


async def test_guest_is_known_by_its_certificate_alone(world):
    await world.start()
    instance_id, guest = await world.guest()
    await guest.send(heartbeat=heartbeat())
    await until(lambda: world.conductor.reports)
    opened = world.conductor.opened[0]
    assert (opened.instance_id, opened.tenant_id) == (instance_id, "tenant-a")
    assert opened.gateway_id == "gw1"
    assert opened.incarnation == world.conductor.leases[0].incarnation
    assert world.conductor.leases[0].address == world.endpoints.internal
    report = world.conductor.reports[0]
    assert (report.instance_id, report.session_epoch) == (
        instance_id,
        guest.welcomed.session_epoch,
    )
    assert report.sequence == 2
    assert guest.welcomed.settings.heartbeat_interval.seconds == 10
    assert guest.welcomed.bundle_version == 1


async def test_heartbeats_of_one_flush_coalesce_to_the_latest(world):
    await world.start(heartbeat_flush=seconds(0.5))
    instance_id, guest = await world.guest()
    for starts in range(1, 21):
        await guest.send(heartbeat=heartbeat(starts))
    await until(
        lambda: any(r.heartbeat.observation.start_count == 20 for r in world.conductor.reports)
    )
    assert len(world.conductor.reports) <= 3
    assert {report.instance_id for report in world.conductor.reports} == {instance_id}


async def test_change_is_acknowledged_only_after_the_conductors_commit(world):
    await world.start()
    _, guest = await world.guest()
    world.conductor.is_committing = False
    await guest.send(change=change())
    await until(lambda: world.conductor.reports)
    with pytest.raises(TimeoutError):
        await guest.expect("acknowledgement", seconds=0.3)
    world.conductor.is_committing = True
    await guest.send(change=change("change-2"))
    assert (await guest.expect("acknowledgement")).id == "change-2"


async def test_change_survives_a_conductor_restart_by_being_sent_again(world):
    await world.start()
    _, guest = await world.guest()
    world.conductor.is_committing = False
    await guest.send(change=change("kept"))
    await until(lambda: world.conductor.reports)
    await world.conductor.stop()
    await guest.send(
        backup_update=pb2.BackupUpdate(update_id="during", state=pb2.BACKUP_STATE_COMPLETED)
    )
    world.conductor.is_committing = True
    await world.conductor.start()
    assert (await guest.expect("acknowledgement")).id == "kept"
    assert (await guest.expect("acknowledgement")).id == "during"
    assert world.conductor.committed == ["kept", "during"]


async def test_change_the_conductor_will_never_apply_is_acknowledged_too(world):
    await world.start()
    _, guest = await world.guest()
    world.conductor.refusals["bad"] = "NOT_YOUR_BACKUP"
    await guest.send(backup_update=pb2.BackupUpdate(update_id="bad"))
    assert (await guest.expect("acknowledgement")).id == "bad"
    assert world.conductor.committed == []


async def test_too_many_unacknowledged_changes_end_the_session_with_overloaded(world):
    await world.start(unacknowledged_limit=3)
    world.conductor.is_committing = False
    _, guest = await world.guest()
    for number in range(4):
        await guest.send(change=change(f"change-{number}"))
    code, error = await refused(guest.ended())
    assert (code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert error.retry_after == 5.0


async def test_command_goes_down_and_its_result_comes_up(world):
    await world.start()
    instance_id, guest = await world.guest()
    guest.answers_pings = False
    sending = asyncio.ensure_future(
        call(
            world.dispatch().SendCommand,
            dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=ping("c-1")),
            timeout=10,
        )
    )
    command = await guest.expect("command")
    assert command.command_id == "c-1"
    assert command.request_id.startswith("req-")
    assert 0 < command.timeout.ToMilliseconds() <= 10_000
    await guest.send(
        command_result=pb2.CommandResult(
            command_id="c-1", ping=pb2.PingResult(observation=observation(starts=7))
        )
    )
    assert (await sending).result.ping.observation.start_count == 7


async def test_failed_command_is_the_calls_error(world):
    await world.start()
    instance_id, guest = await world.guest()
    guest.answers_pings = False
    sending = asyncio.ensure_future(
        call(
            world.dispatch().SendCommand,
            dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=ping("c-1")),
            timeout=10,
        )
    )
    await guest.expect("command")
    await guest.send(
        command_result=pb2.CommandResult(
            command_id="c-1", error_reason="UNSUPPORTED", error_message="no such engine"
        )
    )
    with pytest.raises(errors.UnsupportedError, match="no such engine"):
        await sending


async def test_command_to_an_absent_guest_answers_session_moved(world):
    await world.start()
    with pytest.raises(errors.SessionMovedError):
        await call(
            world.dispatch().SendCommand,
            dispatch_pb2.SendCommandRequest(instance_id=str(uuid.uuid4()), command=ping()),
            timeout=5,
        )


async def test_command_of_a_guest_that_leaves_answers_session_moved(world):
    await world.start()
    instance_id, guest = await world.guest()
    guest.answers_pings = False
    sending = asyncio.ensure_future(
        call(
            world.dispatch().SendCommand,
            dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=ping()),
            timeout=10,
        )
    )
    await guest.expect("command")
    await guest.close()
    with pytest.raises(errors.SessionMovedError):
        await sending


async def test_full_command_queue_answers_overloaded(world):
    await world.start(command_limit=2)
    instance_id, guest = await world.guest()
    guest.answers_pings = False
    dispatch = world.dispatch()

    def send():
        return asyncio.ensure_future(
            call(
                dispatch.SendCommand,
                dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=ping()),
                timeout=10,
            )
        )

    waiting = [send(), send()]
    await guest.expect("command")
    await guest.expect("command")
    with pytest.raises(errors.OverloadedError):
        await send()
    await guest.close()
    await asyncio.wait(waiting)
    for each in waiting:
        assert isinstance(each.exception(), errors.SessionMovedError)


async def test_unanswered_command_ends_with_the_callers_deadline(world):
    await world.start()
    instance_id, guest = await world.guest()
    guest.answers_pings = False
    with pytest.raises(errors.DeadlineError):
        await call(
            world.dispatch().SendCommand,
            dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=ping()),
            timeout=0.5,
        )


async def test_same_boot_and_certificate_takes_over_and_commands_follow(world):
    await world.start()
    instance_id, identity = world.guest_identity()
    old = world.stream(identity)
    await old.open()
    old.answers_pings = False
    sending = asyncio.ensure_future(
        call(
            world.dispatch().SendCommand,
            dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=ping("moves")),
            timeout=10,
        )
    )
    await old.expect("command")
    new = world.stream(identity)
    welcome = await new.open()
    assert (await old.expect("goodbye")).reason == pb2.GOODBYE_REASON_HANDOVER
    await old.ended()
    assert (await sending).result.command_id == "moves"
    assert world.conductor.opened[-1].instance_id == instance_id
    await until(lambda: world.conductor.closed)
    assert world.conductor.closed[0].session_epoch < welcome.session_epoch


async def test_another_boot_is_refused_while_the_first_answers(world):
    await world.start()
    instance_id, identity = world.guest_identity()
    first = world.stream(identity)
    await first.open()
    code, error = await refused(world.stream(identity, boot_id="boot-2").open())
    assert (code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "CLONE_SUSPECTED")
    dispatch = world.dispatch()
    await call(
        dispatch.SendCommand,
        dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=ping()),
        timeout=5,
    )
    stop = pb2.Command(command_id="stop-1", stop=pb2.StopAction())
    with pytest.raises(errors.ConflictError) as caught:
        await call(
            dispatch.SendCommand,
            dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=stop),
            timeout=5,
        )
    assert caught.value.reason == "CLONE_SUSPECTED"


async def test_another_boot_replaces_a_stream_that_does_not_answer(world):
    await world.start()
    _, identity = world.guest_identity()
    first = world.stream(identity)
    await first.open()
    first.answers_pings = False
    await world.stream(identity, boot_id="boot-2").open()
    code, error = await refused(first.ended())
    assert (code, error.reason) == (grpc.StatusCode.ABORTED, "SESSION_REPLACED")


async def test_renewed_certificate_takes_the_commands_after_confirm(world):
    await world.start()
    instance_id, identity = world.guest_identity()
    old = world.stream(identity)
    await old.open()
    _, renewed = world.guest_identity(instance_id)
    new = world.stream(renewed)
    await new.open()
    dispatch = world.dispatch()

    async def send(command_id):
        await call(
            dispatch.SendCommand,
            dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=ping(command_id)),
            timeout=5,
        )

    await send("before")
    assert (await old.expect("command")).command_id == "before"
    await new.identity.Confirm(identity_pb2.ConfirmRequest(), timeout=5)
    assert (await old.expect("goodbye")).reason == pb2.GOODBYE_REASON_HANDOVER
    await old.ended()
    await send("after")
    assert (await new.expect("command")).command_id == "after"


async def test_certificate_confirmed_before_its_stream_takes_over_at_once(world):
    await world.start()
    instance_id, identity = world.guest_identity()
    old = world.stream(identity)
    await old.open()
    _, renewed = world.guest_identity(instance_id)
    new = world.stream(renewed)
    await new.identity.Confirm(identity_pb2.ConfirmRequest(), timeout=5)
    await new.open()
    assert (await old.expect("goodbye")).reason == pb2.GOODBYE_REASON_HANDOVER


async def test_operator_lists_sessions_page_by_page(world):
    await world.start()
    instances = sorted([(await world.guest())[0] for _ in range(3)])
    dispatch = world.dispatch(Role.OPERATOR)
    first = await call(
        dispatch.ListSessions, dispatch_pb2.ListSessionsRequest(page_size=2), timeout=5
    )
    second = await call(
        dispatch.ListSessions,
        dispatch_pb2.ListSessionsRequest(page_size=2, page_token=first.next_page_token),
        timeout=5,
    )
    listed = [s.instance_id for s in (*first.sessions, *second.sessions)]
    assert listed == instances
    assert second.next_page_token == ""
    assert first.sessions[0].agent_version == "1.0"


async def test_stream_that_does_not_begin_with_hello_is_refused(world):
    await world.start(hello_timeout=seconds(0.3))
    _, identity = world.guest_identity()
    guest = world.stream(identity)
    guest.hello = pb2.Hello()
    code, error = await refused(guest.open())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    silent = world.stream(identity)
    await silent.begin_silently()
    code, error = await refused(silent.ended())
    assert error.reason == "NO_HELLO"


async def test_leaving_gateway_says_goodbye_and_closes_its_sessions(world):
    await world.start()
    instance_id, guest = await world.guest()
    await world.leave()
    assert (await guest.expect("goodbye")).reason == pb2.GOODBYE_REASON_DRAINING
    await guest.ended()
    assert [closed.instance_id for closed in world.conductor.closed] == [instance_id]


async def test_answer_on_the_other_stream_of_a_handover_counts(world):
    await world.start()
    instance_id, identity = world.guest_identity()
    old = world.stream(identity)
    await old.open()
    old.answers_pings = False
    _, renewed = world.guest_identity(instance_id)
    new = world.stream(renewed)
    await new.open()
    sending = asyncio.ensure_future(
        call(
            world.dispatch().SendCommand,
            dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=ping("either")),
            timeout=10,
        )
    )
    await old.expect("command")
    await new.send(command_result=pb2.CommandResult(command_id="either", ping=pb2.PingResult()))
    assert (await sending).result.command_id == "either"


async def test_incoming_session_gets_the_commands_when_the_old_one_ends(world):
    await world.start()
    instance_id, identity = world.guest_identity()
    old = world.stream(identity)
    await old.open()
    _, renewed = world.guest_identity(instance_id)
    new = world.stream(renewed)
    await new.open()
    await old.close()
    await until(lambda: world.conductor.closed)
    await call(
        world.dispatch().SendCommand,
        dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=ping("alone")),
        timeout=5,
    )
    assert (await new.expect("command")).command_id == "alone"


async def test_reports_go_on_when_the_gateways_own_certificate_is_replaced(world, monkeypatch):
    monkeypatch.setattr("trove_grpc.client._LINGER_SECONDS", 0.0)
    monkeypatch.setattr("trove_grpc.client._DRAIN_SECONDS", 0.1)
    await world.start()
    _, guest = await world.guest()
    await guest.send(change=change("before"))
    await guest.expect("acknowledgement")
    world.renew_gateway()
    _, other = await world.guest()  # the next call takes a new channel and drains the old
    world.conductor.batches.clear()
    await guest.send(change=change("after"))
    assert (await guest.expect("acknowledgement")).id == "after"
    await other.send(change=change("other"))
    assert (await other.expect("acknowledgement")).id == "other"


async def test_command_the_agent_does_not_understand_is_unsupported(world):
    await world.start()
    instance_id, identity = world.guest_identity()
    guest = world.stream(identity)
    guest.hello.capabilities.append("ping")
    await guest.open()
    stop = pb2.Command(command_id="stop-1", stop=pb2.StopAction())
    with pytest.raises(errors.UnsupportedError):
        await call(
            world.dispatch().SendCommand,
            dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=stop),
            timeout=5,
        )


async def test_guest_that_sends_too_fast_is_read_slowly_and_loses_nothing(world):
    await world.start(messages_per_second=20)
    _, guest = await world.guest()
    began = asyncio.get_running_loop().time()
    for number in range(60):
        await guest.send(change=change(f"change-{number}"))
    for number in range(60):
        assert (await guest.expect("acknowledgement")).id == f"change-{number}"
    assert asyncio.get_running_loop().time() - began > 1.5


async def test_window_to_come_back_in_grows_with_the_guests_and_all_are_told(world):
    await world.start(
        reconnects_per_second=1.0, reconnect_window=seconds(0.5), window_notices=seconds(0.05)
    )
    _, first = await world.guest()
    assert first.welcomed.settings.reconnect_window.ToTimedelta() == seconds(1)
    _, second = await world.guest()
    assert second.welcomed.settings.reconnect_window.ToTimedelta() == seconds(2)
    while (await first.expect("settings")).reconnect_window.ToTimedelta() != seconds(2):
        pass
    assert not first.received[-1].settings.HasField("heartbeat_interval")


async def test_window_has_a_least_length(world):
    await world.start(reconnects_per_second=1000.0, reconnect_window=seconds(3))
    _, guest = await world.guest()
    assert guest.welcomed.settings.reconnect_window.ToTimedelta() == seconds(3)
