"""What the verbs show and do, over both ways to the issuer."""

from __future__ import annotations

import datetime as dt
import json
import stat
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from tests.fakes.fake_issuer_admin import stamp
from tests.integration.pki_cli.conftest import Scene
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as ca
from trove_grpc.gen.issuer.v1 import federation_service_pb2 as federation

DAY = dt.timedelta(days=1)


def operator(scene: Scene, name: str = "ann") -> Path:
    path = scene.root / name
    done = scene.ask("operator", "issue", "--name", name, "--identity", str(path))
    assert done.status == 0, done.notes
    return path


def test_operator_certificate_opens_the_other_way(scene: Scene):
    remote = ("--issuer", scene.fake.address, "--identity", str(operator(scene)))
    assert scene.run("ca", "list", *remote).out == scene.ask("ca", "list").out
    assert scene.run("rotate", "status", *remote).status == 0


def test_guest_certificate_does_not(scene: Scene):
    path = scene.root / "guest"
    scene.fake.authority.identity_for_guest("t", "0" * 8 + "-0000-4000-8000-" + "0" * 12, path)
    done = scene.run("ca", "list", "--issuer", scene.fake.address, "--identity", str(path))
    assert done.status == 6


def test_identity_that_is_not_there_is_an_error_of_ours(scene: Scene):
    done = scene.run("ca", "list", "--issuer", "127.0.0.1:1", "--identity", str(scene.root / "x"))
    assert done.status == 1
    assert "enrol first" in done.notes


def test_yaml_and_json_carry_the_same_document(scene: Scene):
    scene.state.add_agent()
    as_yaml = scene.ask("agents", "list", "--output", "yaml")
    assert yaml.safe_load(as_yaml.out) == scene.json("agents", "list").rows
    assert scene.json("agents", "list").rows[0]["expire_time"].endswith("Z")


def test_status_is_one_screen_and_one_document(scene: Scene):
    scene.state.add_agent(is_online=True, gateway_id="gw-1")
    scene.state.add_agent("LOST")
    scene.state.add_service("gateway")
    scene.ask("rotate", "start", "service", "--yes")
    scene.ask("audit", "checkpoint")
    done = scene.ask("status")
    assert done.status == 0
    for text in ("local.trove", "current 1  lost 1", "rot-0001", "gateway/h", "last checkpoint"):
        assert text in done.out
    row = scene.json("status").rows[0]
    assert row["agents"]["lost"] == 1
    assert {each["authority"] for each in row["authorities"]} >= {"root", "guest", "database"}


def test_expirations_show_services_guests_and_authorities(scene: Scene):
    scene.state.add_service("gateway", age=5 * DAY, life=7 * DAY)
    scene.state.add_service("api")
    scene.state.add_agent("EXPIRED")
    done = scene.ask("certs", "check-expiration")
    assert "gateway/h is DUE" in done.out
    assert "1 guest expired (see: trove-pki agents list --state expired)" in done.out
    assert "guests (1)" in done.out
    rows = scene.json("certs", "check-expiration").rows
    states = {row["name"]: row["state"] for row in rows if row["type"] == "service"}
    assert states == {"gateway/h": "DUE", "api/h": "ok"}


def test_agents_that_cannot_return_are_listed_with_the_command_that_helps(scene: Scene):
    command = "trove-pki agents reissue-token 00000001-0000-4000-8000-000000000000"
    scene.state.add_agent("LOST", command=command)
    scene.state.add_agent(is_online=True)
    done = scene.ask("agents", "list")
    assert f"What helps:\n  00000001-0000-4000-8000-000000000000: {command}" in done.out
    assert len(scene.json("agents", "list", "--state", "lost").rows) == 1
    assert len(scene.json("agents", "list", "--offline").rows) == 1
    assert scene.json("agents", "list", "--online").rows[0]["command"] == ""
    shown = scene.ask("agents", "show", "00000001-0000-4000-8000-000000000000")
    assert command in shown.out


def test_a_denial_is_written_and_lifted(scene: Scene):
    agent = scene.state.add_agent()
    word = ("--reason", "test")
    denied = scene.json("agents", "deny", agent.instance_id, "--yes", *word)
    assert denied.rows[0]["kind"] == "instance"
    assert scene.json("agents", "allow", agent.instance_id, *word).rows[0]["was_lifted"] is True
    assert scene.ask("agents", "allow", agent.instance_id, *word).status == 3
    assert scene.ask("deny", "generation", "guest/1", "--yes", *word).status == 0


def test_recovery_is_opened_for_a_while(scene: Scene):
    agent = scene.state.add_agent("LOST")
    done = scene.json(
        "agents", "allow-recovery", agent.instance_id, "--for", "2h", "--reason", "it was off"
    )
    until = dt.datetime.fromisoformat(done.rows[0]["recovery_until_time"])
    assert abs(until - dt.datetime.now(dt.UTC) - dt.timedelta(hours=2)) < DAY / 24


def test_a_clone_is_resolved_by_keeping_or_by_a_new_token(scene: Scene):
    agent = scene.state.add_agent("QUARANTINED", quarantine_reason="two boots")
    resolve = ("agents", "resolve-clone", agent.instance_id, "--reason", "r")
    assert scene.json(*resolve, "--keep").rows[0]["state"] == "CURRENT"
    row = scene.json(*resolve, "--reissue", "--yes").rows[0]
    assert row["token"].startswith("trv1.")
    assert row["ended_certificates"] == 1


def test_lost_agents_get_tokens_in_files_that_are_for_one_user(scene: Scene):
    scene.state.add_agent()
    lost = [scene.state.add_agent("LOST").instance_id for _ in range(2)]
    folder = scene.root / "tokens"
    done = scene.ask("agents", "reissue-token", "--stale", "--token-directory", str(folder))
    assert done.status == 0
    assert "trv1." not in done.out + done.notes
    for instance_id in lost:
        assert stat.S_IMODE((folder / instance_id).stat().st_mode) == 0o600
        assert (folder / instance_id).read_text().startswith("trv1.")
    assert scene.json("agents", "reissue-token", "--stale", "--dry-run").status == 0
    assert len(scene.state.tokens) == 2


def test_tokens_are_created_listed_and_revoked(scene: Scene):
    instance_id = scene.state.add_agent("NEVER").instance_id
    created = scene.json("token", "create", "--instance", instance_id).rows[0]
    assert created["token"].startswith("trv1.")
    file = scene.root / "token"
    kept = scene.json("token", "create", "--instance", instance_id, "--token-file", str(file))
    assert "token" not in kept.rows[0]
    again = scene.ask("token", "create", "--instance", instance_id, "--token-file", str(file))
    assert (again.status, "trv1." in again.out) == (1, False)
    listed = scene.json("token", "list")
    assert "trv1." not in listed.out
    (last,) = scene.json("token", "list", "--state", "open").rows
    assert scene.ask("token", "revoke", last["token_id"], "--yes").status == 0
    assert scene.ask("token", "revoke", last["token_id"], "--yes").status == 3


def test_authority_is_shown_by_what_it_is_for_now(scene: Scene):
    done = scene.ask("ca", "show", "guest")
    active, prepared, old = done.out.splitlines()
    assert active.startswith("Active authorities:    g1  ACTIVE")
    assert "signed by root g1" in active
    assert prepared.split(":")[1].strip() == old.split(":")[1].strip() == "none"


def test_taint_names_who_needs_a_token_and_is_partial_then(scene: Scene):
    taint = ("taint", "guest", "1", "--reason", "stolen", "--no-successor", "--yes")
    assert scene.json(*taint).rows[0]["state"] == "TAINTED"
    scene.state.stranded.append(ca.Stranded(instance_id="i", command="trove-pki x"))
    done = scene.ask(*taint)
    assert done.status == 5
    assert "1 instances need a token now:" in done.out


def test_crl_is_one_that_other_software_reads(scene: Scene):
    file = scene.root / "guest.crl"
    assert scene.ask("crl", "export", "guest", "--out", str(file)).status == 0
    signer = scene.fake.authority.signers[trust_pb2.AUTHORITY_KIND_GUEST].certificate
    crl = x509.load_der_x509_crl(file.read_bytes())
    assert crl.is_signature_valid(signer.public_key())


def test_bundle_in_a_file_is_compared_with_the_one_in_force(scene: Scene):
    whole, part = scene.root / "bundle.pb", scene.root / "part.pem"
    scene.ask("bundle", "export", "--format", "pb", "--out", str(whole))
    assert scene.ask("bundle", "diff", str(whole)).status == 3
    part.write_text(scene.ask("bundle", "show", "--authority", "root", "--pem").out)
    rows = scene.json("bundle", "diff", str(part)).rows
    assert {row["change"] for row in rows} == {"missing"}
    assert "guest" in {row["authority"] for row in rows}
    part.write_text("neither")
    assert scene.ask("bundle", "diff", str(part)).status == 1


def test_push_gives_a_new_version_and_waits_for_those_online(scene: Scene):
    scene.state.add_agent(is_online=True)
    late = scene.state.add_agent("CURRENT")
    scene.state.add_service("api")
    done = scene.json("bundle", "push", "--reason", "r", "--wait")
    assert (done.status, done.rows) == (0, [{"bundle_version": 2, "behind": []}])
    late.is_online = True
    scene.state.is_push_heard = False
    done = scene.json("bundle", "push", "--reason", "r", "--wait", "--timeout", "0.01s")
    assert done.status == 5
    assert late.instance_id in done.rows[0]["behind"]
    assert "0/3 hold it" in done.notes


def test_services_are_enrolled_and_listed(scene: Scene):
    path = str(scene.root / "api")
    done = scene.json("service", "enrol", "--role", "api", "--host", "h", "--identity", path)
    assert done.rows[0]["spiffe_id"] == "spiffe://local.trove/service/api/h"
    scene.state.add_service("api")
    assert "api/h" in scene.ask("service", "list").out
    early = scene.run("service", "renew", "--issuer", scene.fake.address, "--identity", path)
    assert early.status == 3
    assert "--force" in early.notes


def test_files_are_inspected_and_told_when_they_need_renewal(scene: Scene):
    chain = operator(scene) / "current" / "chain.pem"
    leaf, parent = scene.run("certs", "inspect", str(chain), "--output", "json").rows
    assert leaf["names"] == ["spiffe://local.trove/operator/ann"]
    assert (leaf["is_authority"], parent["is_authority"]) == (False, True)
    needs = ("certs", "needs-renewal", str(chain), "--expires-in")
    fine = scene.run(*needs, "66%")
    assert fine.status == 3
    assert "renewal not needed" in fine.out
    assert scene.run(*needs, "24h").status == 0
    assert scene.run("certs", "needs-renewal", str(scene.root / "no")).status == 1


def test_audit_is_shown_exported_and_sealed(scene: Scene):
    scene.state.record("ann", "deny", "instance i")
    rows = scene.json("audit", "tail", "--lines", "1").rows
    assert [row["sequence"] for row in rows] == [2]
    file = scene.root / "audit.jsonl"
    assert scene.ask("audit", "export", "--out", str(file)).status == 0
    assert [json.loads(line)["sequence"] for line in file.read_text().splitlines()] == [1, 2]
    assert scene.ask("audit", "export", "--out", str(file)).status == 1
    assert scene.json("audit", "checkpoint").rows[0]["sequence"] == 2
    assert "checked 2 rows" in scene.ask("audit", "verify").out


def test_federation_takes_a_bundle_from_a_file_and_never_an_older_one(scene: Scene):
    file = scene.root / "other.json"
    scene.ask("bundle", "export", "--out", str(file))
    add = ("federation", "add", "other.trove", "--file", str(file), "--yes")
    assert scene.json(*add).rows[0]["roots"] == 1
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "spiffe_sequence": 0}))
    assert scene.ask(*add).status == 4
    file.write_text("{}")
    assert scene.ask(*add).status == 2
    assert "other.trove" in scene.ask("federation", "list").out
    assert scene.ask("federation", "remove", "other.trove", "--yes").status == 0


def test_breakglass_takes_two_operators_and_ends(scene: Scene):
    folder = scene.root / "breakglass"
    wanted = ("--incident", "inc-7", "--reason", "issuer down", "--directory", str(folder))
    assert scene.run("breakglass", "request", *wanted).status == 0
    assert scene.run("breakglass", "request", *wanted).status == 4
    approvals = []
    for name in ("ann", "ben"):
        out = str(scene.root / f"{name}.approval")
        approve = ("--claim", str(folder / "claim.pb"), "--identity", str(operator(scene, name)))
        done = scene.run("breakglass", "approve", *approve, "--out", out, typed="inc-7")
        assert "reason: issuer down" in done.notes
        approvals += ["--approval", out]
    issue = ("breakglass", "issue", "--directory", str(folder), "--yes")
    assert scene.ask(*issue, *approvals[:2]).status == 1
    assert scene.ask(*issue, *approvals).status == 0
    remote = ("--issuer", scene.fake.address, "--identity", str(folder))
    assert scene.run("ca", "list", *remote).status == 0
    assert scene.ask("breakglass", "end", "inc-7", "--yes").status == 0
    assert scene.ask("breakglass", "end", "inc-7", "--yes").status == 3


def test_doctor_is_content_with_a_sound_installation(scene: Scene):
    scene.state.add_agent(is_online=True)
    scene.state.add_service("api")
    trust_region(scene, age=dt.timedelta(hours=1))
    scene.ask("audit", "checkpoint")
    done = scene.ask("doctor")
    assert (done.status, done.out) == (0, "all is well\n")


def test_doctor_says_that_the_issuer_is_away(scene: Scene):
    done = scene.run("doctor", "--socket", str(scene.root / "no.sock"))
    assert done.status == 6
    assert "the issuer does not answer" in done.out


def skewed(scene: Scene) -> None:
    for _ in range(3):
        agent = scene.state.add_agent(is_online=True, gateway_id="gw-1")
        agent.clock_skew.FromTimedelta(dt.timedelta(minutes=5))


def silent(scene: Scene) -> None:
    service = scene.state.add_service("api")
    service.last_seen_time.CopyFrom(stamp(scene.state.start - DAY))


def stuck(scene: Scene) -> None:
    scene.state.rotations["rot-0001"] = ca.Rotation(
        rotation_id="rot-0001",
        phase=ca.ROTATION_PHASE_DISTRIBUTING,
        phase_time=stamp(scene.state.start - DAY),
    )


def trust_region(scene: Scene, *, age: dt.timedelta, url: str = "") -> None:
    region = federation.Federation(endpoint_url=url)
    region.bundle.trust_domain = "b.trove"
    region.bundle.refresh_time.CopyFrom(stamp(scene.state.start - age))
    scene.state.federations["b.trove"] = region


@pytest.mark.parametrize(
    ("spoil", "check", "said"),
    [
        (lambda s: trust_region(s, age=2 * DAY), "federation", "federation add b.trove --file"),
        (
            lambda s: trust_region(s, age=2 * DAY, url="https://b"),
            "federation",
            "federation refresh b.trove",
        ),
        (skewed, "clock", "all 3 agents at gw-1 are off by 5m"),
        (lambda s: setattr(s.state, "clock_error", DAY), "clock", "issuer's clock differs"),
        (lambda s: s.state.add_agent("OVERDUE"), "agents", "past two thirds"),
        (lambda s: s.state.add_agent("EXPIRED"), "agents", "1 agent expired"),
        (lambda s: s.state.add_agent("LOST"), "agents", "reissue-token --stale"),
        (lambda s: s.state.add_agent("QUARANTINED"), "quarantine", "resolve-clone"),
        (lambda s: s.state.add_service("api", age=5 * DAY), "services", "has used"),
        (lambda s: s.state.add_service("api", age=8 * DAY), "services", "expired"),
        (silent, "services", "last heard of 24h ago"),
        (stuck, "rotations", "has been DISTRIBUTING for 24h"),
        (lambda s: setattr(s.state, "first_bad_sequence", 1), "audit", "row 1 was edited"),
        (lambda s: setattr(s.state, "checkpoint", None), "audit", "no checkpoint"),
    ],
)
def test_doctor_finds(scene: Scene, spoil, check, said):
    scene.ask("audit", "checkpoint")
    spoil(scene)
    found = scene.json("doctor").rows
    assert check in {each["check"] for each in found}
    assert said in json.dumps(found)
    assert all(each["why"] and each["do"] for each in found)


def test_doctor_finds_an_own_key_that_is_open_to_others(scene: Scene):
    path = operator(scene)
    (path / "current" / "key.pem").chmod(0o640)
    remote = ("--issuer", scene.fake.address, "--identity", str(path))
    done = scene.run("doctor", *remote)
    assert done.status == 1
    assert "key.pem is open to others" in done.out


def test_foreign_text_moves_no_cursor(scene: Scene):
    scene.state.add_agent(tenant_id="\x1b[2J")
    assert "\x1b" not in scene.ask("agents", "list").out
