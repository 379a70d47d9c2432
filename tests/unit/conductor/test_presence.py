"""Order of reports, what is persisted when, and what a reader sees."""

from __future__ import annotations

import datetime as dt

import pytest

from conductor.presence import Presence, PresenceTable
from trove_grpc.gen.common.v1 import engine_pb2

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PERSIST = dt.timedelta(seconds=30)
I1 = "11111111-1111-4111-8111-111111111111"


def at(seconds: float) -> dt.datetime:
    return START + dt.timedelta(seconds=seconds)


def report(
    epoch: int, sequence: int, seconds: float, state: str = "HEALTHY", **changes: object
) -> Presence:
    return Presence(
        session_epoch=epoch,
        sequence=sequence,
        engine_state=state,
        last_report_time=at(seconds),
        **changes,
    )


@pytest.fixture
def table() -> PresenceTable:
    table = PresenceTable(persist_interval=PERSIST, forget_after=dt.timedelta(seconds=900))
    table.load(I1, report(3, 0, 0))
    return table


def test_report_of_a_higher_sequence_is_taken(table: PresenceTable) -> None:
    assert table.accept(I1, report(3, 1, 1))
    assert table.accept(I1, report(3, 7, 2))


@pytest.mark.parametrize(("epoch", "sequence"), [(3, 5), (3, 4), (3, 0), (2, 99), (4, 1)])
def test_report_of_another_epoch_or_no_higher_sequence_is_dropped(
    table: PresenceTable, epoch: int, sequence: int
) -> None:
    assert table.accept(I1, report(3, 5, 1))
    assert not table.accept(I1, report(epoch, sequence, 2, "CRASHED"))
    assert table.merge(I1, report(3, 0, 0)).engine_state == "HEALTHY"


def test_higher_epoch_is_asked_of_the_database_before_it_counts(table: PresenceTable) -> None:
    assert table.unknown([(I1, 3), ("other", 1)]) == {"other"}
    assert table.unknown([(I1, 4)]) == {I1}
    table.load(I1, report(4, 0, 5))
    assert table.accept(I1, report(4, 1, 6))
    assert not table.accept(I1, report(3, 100, 7))


def test_older_row_does_not_replace_what_is_known(table: PresenceTable) -> None:
    table.accept(I1, report(3, 5, 10))
    table.load(I1, report(3, 2, 5, "CRASHED"))
    assert table.merge(I1, report(3, 2, 5, "CRASHED")).sequence == 5


def test_unchanged_heartbeat_is_persisted_only_when_the_last_one_is_old(
    table: PresenceTable,
) -> None:
    written = []
    for sequence in range(1, 11):
        now = at(sequence * 10)
        table.accept(I1, report(3, sequence, sequence * 10))
        due = table.due([I1], now)
        table.persisted(due)
        written += [sequence for _ in due]
    assert written == [3, 6, 9]


@pytest.mark.parametrize(
    "change",
    [
        {"state": "CRASHED"},
        {"reason": "recovering"},
        {"start_count": 2},
        {"engine_version": "15.19"},
    ],
)
def test_heartbeat_that_says_something_new_is_persisted_at_once(
    table: PresenceTable, change: dict[str, object]
) -> None:
    table.accept(I1, report(3, 1, 1, **change))
    assert I1 in table.due([I1], at(1))


def test_fill_of_the_volume_alone_waits_for_the_interval(table: PresenceTable) -> None:
    table.accept(I1, report(3, 1, 1, volume_used_bytes=5))
    assert table.due([I1], at(1)) == {}


def test_failed_write_leaves_the_report_due(table: PresenceTable) -> None:
    table.accept(I1, report(3, 1, 1, "CRASHED"))
    assert table.due([I1], at(1))
    assert table.due([I1], at(1))


def test_heartbeat_after_a_written_change_is_persisted_again(table: PresenceTable) -> None:
    table.accept(I1, report(3, 8, 8))
    table.persisted({I1: report(3, 7, 8, "CRASHED")})  # a change the heartbeat overtook
    table.accept(I1, report(3, 9, 10))
    assert table.due([I1], at(10))[I1].engine_state == "HEALTHY"


def test_reader_sees_memory_where_the_row_is_behind(table: PresenceTable) -> None:
    table.accept(I1, report(3, 2, 20, start_count=4))
    merged = table.merge(I1, report(3, 0, 0))
    assert (merged.last_report_time, merged.start_count) == (at(20), 4)


def test_reader_sees_the_row_where_another_conductor_opened_a_later_session(
    table: PresenceTable,
) -> None:
    table.accept(I1, report(3, 2, 20))
    merged = table.merge(I1, report(4, 0, 15, "NEW"))
    assert (merged.session_epoch, merged.engine_state, merged.last_report_time) == (
        4,
        "NEW",
        at(15),
    )


def test_reader_sees_the_later_of_both_in_one_epoch(table: PresenceTable) -> None:
    table.accept(I1, report(3, 2, 20))
    merged = table.merge(I1, report(3, 9, 18, "CRASHED"))
    assert (merged.engine_state, merged.last_report_time) == ("CRASHED", at(20))


def test_reader_sees_the_row_of_a_guest_never_heard_of_here(table: PresenceTable) -> None:
    assert table.merge("other", Presence()) == Presence()
    assert Presence().observation() is None
    assert Presence().silence(at(0)) is None


def test_silence_is_never_negative() -> None:
    assert report(1, 1, 10).silence(at(5)) == dt.timedelta(0)


def test_guests_silent_for_long_are_forgotten(table: PresenceTable) -> None:
    table.forget_silent(at(899))
    assert len(table) == 1
    table.forget_silent(at(901))
    assert len(table) == 0


def test_texts_and_numbers_of_a_guest_are_cut_to_what_a_column_takes() -> None:
    observation = engine_pb2.Observation(
        state=99, reason="a\x00b" + "x" * 5_000, engine_version="v" * 500, start_count=-4
    )
    presence = Presence.from_observation(observation, session_epoch=1, sequence=1, now=START)
    assert presence.engine_state == "UNSPECIFIED"
    assert presence.reason.startswith("abx")
    assert len(presence.reason) == 1024
    assert len(presence.engine_version) == 64
    assert presence.start_count == 0


def test_observation_survives_the_row() -> None:
    observation = engine_pb2.Observation(
        state=engine_pb2.ENGINE_STATE_CRASHED, reason="signal 9", start_count=2
    )
    observation.volume.total_bytes = 10
    observation.volume.used_bytes = 3
    presence = Presence.from_observation(observation, session_epoch=1, sequence=1, now=START)
    assert presence.observation() == observation
