from __future__ import annotations

import pytest

from guestagent.outbox import Outbox
from trove_grpc.errors import OverloadedError
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def outbox(clock):
    return Outbox(capacity=3, now=clock)


def drain(outbox):
    taken = []
    while (message := outbox.take(resend_after=10)) is not None:
        taken.append(message)
    return taken


def change(name):
    return pb.Change(change_id=name)


def test_newest_heartbeat_wins(outbox):
    outbox.put_heartbeat(pb.Heartbeat(bundle_version=1))
    outbox.put_heartbeat(pb.Heartbeat(bundle_version=2))
    (only,) = drain(outbox)
    assert only.heartbeat.bundle_version == 2


def test_results_go_before_reports_and_reports_before_heartbeats(outbox):
    outbox.put_heartbeat(pb.Heartbeat())
    outbox.put_change(change("a"))
    outbox.put_backup_update(pb.BackupUpdate(update_id="b"))
    outbox.put_result(pb.CommandResult(command_id="c"))
    kinds = [message.WhichOneof("message") for message in drain(outbox)]
    assert kinds == ["command_result", "backup_update", "change", "heartbeat"]


def test_change_is_sent_again_until_it_is_acknowledged(outbox, clock):
    outbox.put_change(change("a"))
    assert len(drain(outbox)) == 1
    assert drain(outbox) == []
    clock.now = 10
    assert len(drain(outbox)) == 1
    outbox.acknowledge("a")
    clock.now = 20
    assert drain(outbox) == []
    assert outbox.unacknowledged == 0


def test_new_session_sends_everything_unacknowledged_at_once(outbox):
    outbox.put_change(change("a"))
    outbox.put_change(change("b"))
    drain(outbox)
    outbox.acknowledge("a")
    outbox.rewind()
    assert [message.change.change_id for message in drain(outbox)] == ["b"]


def test_full_outbox_drops_the_oldest_change_and_result(outbox):
    for name in "abcd":
        outbox.put_change(change(name))
        outbox.put_result(pb.CommandResult(command_id=name))
    taken = drain(outbox)
    assert [m.command_result.command_id for m in taken[:3]] == ["b", "c", "d"]
    assert [m.change.change_id for m in taken[3:]] == ["b", "c", "d"]


def test_full_outbox_refuses_a_backup_update_and_keeps_the_others(outbox):
    for name in "abc":
        outbox.put_backup_update(pb.BackupUpdate(update_id=name))
    with pytest.raises(OverloadedError):
        outbox.put_backup_update(pb.BackupUpdate(update_id="d"))
    assert len(drain(outbox)) == 3


def test_unknown_acknowledgement_is_ignored(outbox):
    outbox.acknowledge("never sent")


def test_sequence_written_into_a_taken_message_does_not_reach_its_resend(outbox):
    outbox.put_change(change("a"))
    outbox.take(resend_after=0).sequence = 7
    assert outbox.take(resend_after=0).sequence == 1


def test_what_is_sent_late_keeps_the_number_of_when_it_was_put(outbox):
    outbox.put_change(change("a"))
    outbox.put_heartbeat(pb.Heartbeat())
    outbox.put_change(change("b"))
    assert [message.sequence for message in drain(outbox)] == [1, 3, 2]
    outbox.rewind()
    assert [message.sequence for message in drain(outbox)] == [1, 3]
