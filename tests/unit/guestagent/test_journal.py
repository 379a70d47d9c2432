from __future__ import annotations

from guestagent.journal import Journal, Progress
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb


def test_unknown_command_is_not_found(tmp_path):
    assert Journal(tmp_path / "journal").find("x") is None


def test_started_command_survives_a_restart_as_started(tmp_path):
    Journal(tmp_path).start("c", "prepare")
    entry = Journal(tmp_path).find("c")
    assert (entry.kind, entry.progress, entry.result) == ("prepare", Progress.STARTED, None)


def test_finished_command_survives_a_restart_with_its_result(tmp_path):
    result = pb.CommandResult(command_id="c", error_reason="CONFLICT", error_message="größe")
    journal = Journal(tmp_path)
    journal.start("c", "stop")
    journal.finish("c", "stop", result)
    entry = Journal(tmp_path).find("c")
    assert entry.progress is Progress.FINISHED
    assert entry.result == result


def test_journal_keeps_the_newest_commands_only(tmp_path):
    journal = Journal(tmp_path, limit=5)
    for number in range(20):
        journal.start(f"c{number}", "stop")
    assert len(list(tmp_path.glob("*.json"))) <= 6
    assert journal.find("c0") is None
    assert journal.find("c19") is not None


def test_hostile_command_id_names_no_path(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.start("../../etc/passwd\0", "stop")
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "journal"]
    assert journal.find("../../etc/passwd\0") is not None
