"""`rotate`, from the plan to the end, with and without somebody who waits."""

from __future__ import annotations

import datetime as dt

from tests.fakes.fake_issuer_admin import stamp
from tests.integration.pki_cli.conftest import Scene
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as ca

START = ("rotate", "start", "intermediate", "guest", "--yes")


def strand(scene: Scene, *, recoverable: bool = False) -> str:
    instance_id = scene.state.add_agent("LOST").instance_id
    scene.state.stranded.append(
        ca.Stranded(
            instance_id=instance_id,
            why="it expired 41d ago",
            last_seen_time=stamp(scene.state.start - dt.timedelta(days=41)),
            is_recoverable=recoverable,
            command=f"trove-pki agents reissue-token {instance_id}",
        )
    )
    return instance_id


def test_plan_says_what_would_be_done_and_changes_nothing(scene: Scene):
    strand(scene)
    done = scene.ask("rotate", "plan", "intermediate", "guest")
    assert done.status == 0
    assert done.out.startswith("Plan: rotate guest g1->new")
    assert "sign with root g1" in done.out
    assert "offline: 00000001" in done.out
    assert scene.state.rotations == {}


def test_plan_with_an_obstacle_is_refused_and_names_it(scene: Scene):
    scene.state.obstacles.append("custody is away")
    done = scene.ask("rotate", "plan", "root")
    assert done.status == 4
    assert "cannot start: custody is away" in done.out


def test_start_that_waits_stops_at_the_gate_and_says_how_it_went(scene: Scene):
    done = scene.ask(*START, "--wait", "--output", "json")
    assert done.status == 0
    assert done.rows[0]["phase"] == "READY"
    assert done.rows[0]["progress"]["guests_acknowledged"] == 3
    lines = [line for line in done.notes.splitlines() if line.startswith("rot-0001")]
    assert "DISTRIBUTING" in "".join(lines)
    assert "errors 0.0%" in lines[-1]
    assert "1 offline" in lines[-1]


def test_somebody_at_a_terminal_sees_one_line_that_is_written_over(scene: Scene):
    done = scene.ask("rotate", "start", "intermediate", "guest", "--wait", typed="guest")
    assert done.status == 0
    assert done.notes.count("\r\x1b[K") > 3


def test_automatic_rotation_is_waited_for_to_its_end(scene: Scene):
    done = scene.json(*START, "--auto", "--wait")
    assert done.status == 0
    assert done.rows[0]["phase"] == "RETIRED"
    assert done.rows[0]["progress"]["guests_reissued"] == 3


def test_start_returns_at_once_without_wait(scene: Scene):
    assert scene.json(*START).rows[0]["phase"] == "PLANNED"


def test_advance_passes_the_gate_and_waits_for_the_next(scene: Scene):
    scene.ask(*START, "--wait")
    done = scene.json("rotate", "advance", "rot-0001", "--to", "switched", "--wait", "--yes")
    assert (done.status, done.rows[0]["phase"]) == (0, "DRAINED")


def test_advance_where_there_is_no_gate_has_nothing_to_do(scene: Scene):
    scene.ask(*START)
    done = scene.ask("rotate", "advance", "rot-0001", "--yes")
    assert done.status == 3
    assert "waits at no gate" in done.notes


def test_advance_to_another_gate_than_meant_is_refused(scene: Scene):
    scene.ask(*START, "--wait")
    done = scene.ask("rotate", "advance", "rot-0001", "--to", "retired", "--yes")
    assert done.status == 4
    assert scene.state.rotations["rot-0001"].phase == ca.ROTATION_PHASE_READY


def drained(scene: Scene) -> None:
    scene.ask(*START, "--wait")
    scene.ask("rotate", "advance", "rot-0001", "--wait", "--yes")


def test_retire_refuses_to_strand_and_names_who_with_the_command_that_helps(scene: Scene):
    drained(scene)
    instance_id = strand(scene)
    done = scene.ask("rotate", "retire", "rot-0001", "--yes")
    assert done.status == 4
    assert f"{instance_id}  last seen 41d ago" in done.out
    assert f"recoverable: NO  -> needs: trove-pki agents reissue-token {instance_id}" in done.out
    assert "--strand=" in done.notes
    assert scene.state.rotations["rot-0001"].phase == ca.ROTATION_PHASE_DRAINED
    rows = scene.json("rotate", "retire", "rot-0001", "--yes").rows
    assert [row["instance_id"] for row in rows] == [instance_id]


def test_those_who_are_counted_and_not_named_are_told_of(scene: Scene):
    drained(scene)
    strand(scene)
    scene.state.unnamed = 300
    assert (
        "... and 300 more: trove-pki agents list" in scene.ask("rotate", "status", "rot-0001").out
    )
    row = scene.json("rotate", "status", "rot-0001").rows[0]
    assert (len(row["behind"]), row["behind_total"]) == (1, 301)
    planned = scene.ask("rotate", "plan", "intermediate", "service").out
    assert "... and 300 more: trove-pki agents list --offline" in planned
    tainted = scene.json("taint", "guest", "1", "--reason", "r", "--no-successor", "--yes")
    assert tainted.rows[0]["stranded_total"] == 301


def test_retire_goes_on_when_each_stranded_instance_is_named(scene: Scene):
    drained(scene)
    first, second = strand(scene), strand(scene, recoverable=True)
    retire = ("rotate", "retire", "rot-0001", "--yes", "--strand")
    assert scene.ask(*retire, first).status == 4
    done = scene.json(*retire, f"{first},{second}")
    assert (done.status, done.rows[0]["phase"]) == (0, "RETIRED")
    assert scene.ask("rotate", "retire", "rot-0001", "--yes").status == 3


def test_retire_before_its_time_is_refused_by_the_issuer(scene: Scene):
    scene.ask(*START)
    assert scene.ask("rotate", "retire", "rot-0001", "--yes").status == 4


def test_pause_holds_a_rotation_and_resume_lets_it_go_on(scene: Scene):
    scene.ask(*START)
    pause = ("rotate", "pause", "rot-0001", "--reason", "errors")
    assert scene.json(*pause).rows[0]["is_paused"] is True
    assert scene.ask(*pause).status == 3
    done = scene.json("rotate", "resume", "rot-0001", "--wait")
    assert (done.status, done.rows[0]["phase"]) == (0, "READY")
    assert scene.ask("rotate", "resume", "rot-0001").status == 3


def test_rollback_before_the_switch_aborts_and_after_it_goes_back(scene: Scene):
    for number, (before, after) in enumerate(((False, "ABORTED"), (True, "ROLLED_BACK")), 1):
        scene.ask(*START, "--wait")
        name = f"rot-{number:04}"
        if before:
            scene.ask("rotate", "advance", name, "--yes")
        back = ("rotate", "rollback", name, "--reason", "r", "--yes")
        done = scene.json(*back, "--wait")
        assert (done.status, done.rows[0]["phase"]) == (0, after)
        assert scene.ask(*back).status == 3


def test_status_lists_open_rotations_and_shows_who_is_behind(scene: Scene):
    assert "no rotation is open" in scene.ask("rotate", "status").out
    scene.ask(*START)
    instance_id = strand(scene)
    assert "rot-0001  guest g1->new  PLANNED" in scene.ask("rotate", "status").out
    one = scene.ask("rotate", "status", "rot-0001")
    assert f"behind: {instance_id}" in one.out
    rows = scene.json("rotate", "status", "rot-0001").rows
    assert rows[0]["behind"][0]["instance_id"] == instance_id
    assert scene.ask("rotate", "status", "rot-9999").status == 1


def test_renewing_agents_is_a_rotation_of_leaves(scene: Scene):
    done = scene.json("certs", "renew", "i-1", "i-2", "--yes")
    assert (done.rows[0]["kind"], done.rows[0]["instance_ids"]) == ("leaf", ["i-1", "i-2"])
