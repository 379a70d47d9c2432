from __future__ import annotations

import pytest

from gateway.guest.registry import Registry
from gateway.guest.session import Limits, Session
from trove_grpc import errors
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb2
from trove_grpc.identity import Identity, Role

LIMITS = Limits(commands=4, unacknowledged=2, messages_per_second=50, write_stall=30)


def session(serial="1", boot="boot", epoch=1, instance="instance-1"):
    return Session(
        caller=Identity(role=Role.GUEST, instance_id=instance, serial=serial),
        hello=pb2.Hello(boot_id=boot),
        epoch=epoch,
        limits=LIMITS,
    )


async def test_absent_instance_has_moved():
    with pytest.raises(errors.SessionMovedError):
        Registry().current("instance-1")


async def test_ended_session_gets_no_more_commands():
    registry, only = Registry(), session()
    registry.add(only)
    assert registry.current("instance-1") is only
    registry.remove(only)
    with pytest.raises(errors.SessionMovedError):
        registry.current("instance-1")


async def test_removal_of_a_replaced_session_leaves_its_successor():
    registry, old, new = Registry(), session(), session(epoch=2)
    registry.add(old)
    registry.add(new)
    assert old.ending.reason == "HANDOVER"
    registry.remove(old)
    assert registry.current("instance-1") is new
    assert len(registry) == 1


async def test_renewed_session_waits_for_confirm():
    registry, old, new = Registry(), session("1"), session("2", epoch=2)
    registry.add(old)
    registry.add(new)
    assert registry.current("instance-1") is old
    assert old.is_live
    registry.confirm("instance-1", "3")
    assert registry.current("instance-1") is old
    registry.confirm("instance-1", "2")
    assert registry.current("instance-1") is new
    assert old.ending.reason == "HANDOVER"


async def test_second_renewal_replaces_the_first_that_was_never_confirmed():
    registry, old, first, second = Registry(), session("1"), session("2"), session("3")
    for each in (old, first, second):
        registry.add(each)
    assert old.is_live
    assert not first.is_live
    registry.confirm("instance-1", "3")
    assert registry.current("instance-1") is second


async def test_reboot_replaces_every_session_of_the_boot_before():
    registry, old, renewed, new = Registry(), session("1"), session("2"), session("1", "boot-2")
    for each in (old, renewed, new):
        registry.add(each)
    assert registry.current("instance-1") is new
    assert [old.ending.reason, renewed.ending.reason] == ["SESSION_REPLACED"] * 2


async def test_one_stream_of_an_instance_is_opened_at_a_time():
    registry = Registry()
    with registry.opening("instance-1"):
        with pytest.raises(errors.UnavailableError) as caught, registry.opening("instance-1"):
            pass
        assert caught.value.reason == "SESSION_OPENING"
        with registry.opening("instance-2"):
            pass
    with registry.opening("instance-1"):
        pass


async def test_unacknowledged_changes_are_bounded_and_a_resend_counts_once():
    only = session()
    for change in ("a", "b", "a", "b"):
        only.expect_acknowledgement(change)
    with pytest.raises(errors.OverloadedError):
        only.expect_acknowledgement("c")
