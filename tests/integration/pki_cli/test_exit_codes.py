"""Every exit code by a command that ends with it, and what people do before something ends."""

from __future__ import annotations

import pytest

from tests.integration.pki_cli.conftest import Scene
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as ca


def test_0_when_it_is_done(scene: Scene):
    done = scene.ask("ca", "list")
    assert (done.status, done.notes) == (0, "")
    assert "database-root" in done.out


def test_1_when_it_failed(scene: Scene):
    done = scene.ask("agents", "show", "nobody")
    assert done.status == 1
    assert done.notes == "trove-pki: instance nobody is not registered\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-verb"],
        ["rotate", "start"],
        ["ca", "list", "--output", "xml"],
        ["ca", "list", "--timeout", "soon"],
    ],
)
def test_2_when_the_words_are_wrong(scene: Scene, arguments):
    with pytest.raises(SystemExit) as caught:
        scene.ask(*arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["rotate", "plan", "intermediate"],
        ["rotate", "plan", "service", "guest"],
        ["rotate", "plan", "root", "guest"],
        ["rotate", "plan", "root", "--instance", "i"],
        ["rotate", "status", "--wait"],
        ["certs", "renew"],
        ["agents", "reissue-token"],
        ["federation", "add", "other.trove"],
        ["federation", "add", "other.trove", "--file", "x", "--pin", "short"],
        ["bundle", "export", "--format", "pb"],
    ],
)
def test_2_when_the_words_do_not_fit_each_other(scene: Scene, arguments):
    assert scene.ask(*arguments).status == 2


def test_2_when_two_ways_to_the_issuer_are_named_or_one_by_half(scene: Scene):
    address = scene.fake.address
    assert scene.ask("ca", "list", "--issuer", address).status == 2
    assert scene.run("ca", "list", "--issuer", address).status == 2
    assert scene.run("ca", "list", "--identity", str(scene.root)).status == 2


def test_3_when_there_is_nothing_to_do(scene: Scene):
    assert scene.ask("agents", "reissue-token", "--stale").status == 3
    assert scene.ask("agents", "allow", "i", "--reason", "r").status == 3
    assert scene.ask("federation", "remove", "other.trove", "--yes").status == 3


def test_4_when_nobody_consented_and_nothing_was_changed(scene: Scene):
    agent = scene.state.add_agent()
    done = scene.ask("agents", "deny", agent.instance_id, "--reason", "test")
    assert done.status == 4
    assert "Plan: deny instance" in done.notes
    assert "--yes" in done.notes
    assert scene.state.denials == {}


def test_4_when_the_issuer_s_gate_refuses(scene: Scene):
    scene.state.obstacles.append("rot-0001 is open for guest")
    done = scene.ask("rotate", "start", "intermediate", "guest", "--yes")
    assert (done.status, scene.state.rotations) == (4, {})
    assert "rot-0001 is open for guest" in done.notes
    assert scene.ask("taint", "guest", "1", "--reason", "r", "--yes").status == 4


def test_5_when_a_part_was_done(scene: Scene):
    agent = scene.state.add_agent("LOST")
    done = scene.ask("agents", "reissue-token", agent.instance_id, "nobody")
    assert done.status == 5
    assert "nobody" in done.notes
    assert agent.instance_id in done.out


def test_6_when_nobody_answers(scene: Scene):
    done = scene.run("ca", "list", "--socket", str(scene.root / "no.sock"))
    assert done.status == 6


def test_7_when_the_audit_does_not_hold(scene: Scene):
    scene.state.first_bad_sequence = 1
    done = scene.ask("audit", "verify")
    assert done.status == 7
    assert "first bad row 1" in done.notes


def test_typed_name_consents_and_another_name_does_not(scene: Scene):
    agent = scene.state.add_agent()
    deny = ("agents", "deny", agent.instance_id, "--reason", "test")
    assert scene.ask(*deny, typed="yes").status == 4
    assert scene.state.denials == {}
    assert scene.ask(*deny, typed=agent.instance_id).status == 0
    assert len(scene.state.denials) == 1


DESTRUCTIVE = [
    ["agents", "deny", "i", "--reason", "r"],
    ["deny", "instance", "i", "--reason", "r"],
    ["agents", "resolve-clone", "i", "--reissue", "--reason", "r"],
    ["taint", "guest", "1", "--reason", "r", "--no-successor"],
    ["token", "revoke", "t"],
    ["federation", "remove", "other.trove"],
    ["breakglass", "end", "inc-7"],
    ["rotate", "start", "intermediate", "guest"],
    ["certs", "renew", "--all"],
]


@pytest.mark.parametrize("arguments", DESTRUCTIVE, ids=lambda words: " ".join(words[:2]))
def test_dry_run_prints_the_plan_and_changes_nothing(scene: Scene, arguments):
    done = scene.ask(*arguments, "--dry-run")
    assert done.status == 0
    assert done.out.startswith("Plan: ")
    assert set(scene.json(*arguments, "--dry-run").rows[0]) == {"plan", "name", "steps"}
    assert scene.state.denials == scene.state.rotations == scene.state.tokens == {}


@pytest.mark.parametrize("arguments", DESTRUCTIVE, ids=lambda words: " ".join(words[:2]))
def test_destructive_verb_without_consent_is_refused_after_its_plan(scene: Scene, arguments):
    done = scene.ask(*arguments)
    assert (done.status, done.out) == (4, "")
    assert done.notes.startswith("Plan: ")


def test_global_flags_stand_before_the_verb_or_after_it(scene: Scene):
    socket = str(scene.fake.socket)
    before = scene.run("--output", "json", "ca", "list", "--socket", socket)
    after = scene.run("ca", "list", "--socket", socket, "--output", "json")
    assert before.rows == after.rows
    yes = scene.run("--yes", "deny", "serial", "a1", "--reason", "r", "--socket", socket)
    assert yes.status == 0


def test_paused_and_ended_rotations_end_a_wait_as_partial(scene: Scene):
    scene.ask("rotate", "start", "service", "--yes")
    scene.ask("rotate", "pause", "rot-0001", "--reason", "errors")
    done = scene.ask("rotate", "status", "rot-0001", "--wait")
    assert done.status == 5
    assert "paused: errors" in done.notes
    scene.state.rotations["rot-0001"].is_paused = False
    scene.state.rotations["rot-0001"].phase = ca.ROTATION_PHASE_REISSUING
    done = scene.ask("rotate", "status", "rot-0001", "--wait", "--timeout", "0.001s")
    assert done.status == 5
    assert "goes on" in done.notes
