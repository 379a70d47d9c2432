"""The issuer in memory and the issuer's own process answer the same commands the same way."""

from __future__ import annotations

import datetime as dt
import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from pki.cli import spiffe_bundles
from tests.fakes.certificates import TestAuthority
from tests.integration.pki.conftest import private_directory
from tests.integration.pki_cli.conftest import Asker, Scene
from tests.integration.pki_cli.real_issuer import running

__all__ = ["private_directory"]


class Issuer:
    """One of the two, and an instance it knows."""

    def __init__(self, asker: Asker, instance_id: str, address: str) -> None:
        self.asker = asker
        self.instance_id = instance_id
        self.address = address


@pytest.fixture(params=["fake", "real"])
def issuer(
    request: pytest.FixtureRequest, scene: Scene, private_directory: Path
) -> Iterator[Issuer]:
    if request.param == "fake":
        instance_id = scene.state.add_agent("NEVER").instance_id
        yield Issuer(scene, instance_id, scene.fake.address)
        return
    with running(private_directory) as (asker, real):
        yield Issuer(asker, real.register(), f"127.0.0.1:{real.port}")


def test_an_operator_enters_by_either_way(issuer: Issuer):
    asker = issuer.asker
    folder = str(asker.root / "ann")
    issued = asker.json("operator", "issue", "--name", "ann", "--identity", folder)
    assert issued.rows[0]["spiffe_id"] == "spiffe://local.trove/operator/ann"
    remote = asker.run("bundle", "show", "--issuer", issuer.address, "--identity", folder)
    assert remote.status == 0
    assert remote.out == asker.ask("bundle", "show").out


def test_a_service_s_identity_is_renewed_in_its_directory(private_directory: Path):
    with running(private_directory) as (asker, real):
        folder = str(asker.root / "api")
        enrol = ("service", "enrol", "--role", "api", "--host", "h", "--identity", folder)
        first = asker.json(*enrol).rows[0]
        renew = ("service", "renew", "--issuer", f"127.0.0.1:{real.port}", "--identity", folder)
        assert asker.run(*renew).status == 3
        second = asker.run("--output", "json", *renew, "--force")
        assert second.status == 0, second.notes
        assert second.rows[0]["spiffe_id"] == first["spiffe_id"]
        assert second.rows[0]["serial"] != first["serial"]
        assert asker.run(*renew).status == 3


def test_a_token_lives_from_its_creation_to_its_revocation(issuer: Issuer):
    asker = issuer.asker
    for _ in range(2):
        created = asker.json("token", "create", "--instance", issuer.instance_id)
        assert created.rows[0]["token"].startswith("trv1.")
    states = sorted(row["state"] for row in asker.json("token", "list").rows)
    assert states == ["OPEN", "VOID"]
    (last,) = asker.json("token", "list", "--state", "open").rows
    assert last["instance_id"] == issuer.instance_id
    assert asker.ask("token", "revoke", last["token_id"], "--yes").status == 0
    assert asker.ask("token", "revoke", last["token_id"], "--yes").status == 3
    assert asker.ask("token", "revoke", "nobody's", "--yes").status == 1


def test_a_bundle_is_exported_compared_and_pushed(issuer: Issuer):
    asker = issuer.asker
    file = asker.root / "bundle.pb"
    exported = asker.json("bundle", "export", "--format", "pb", "--out", str(file)).rows[0]
    assert asker.ask("bundle", "diff", str(file)).status == 3
    pushed = asker.json("bundle", "push", "--reason", "a test").rows[0]
    assert pushed["bundle_version"] == exported["bundle_version"] + 1
    assert asker.ask("bundle", "diff", str(file)).status == 3


def test_a_serial_is_denied_once_though_it_is_said_twice(issuer: Issuer):
    deny = ("deny", "serial", "abc123", "--reason", "stolen", "--yes")
    first, second = issuer.asker.json(*deny), issuer.asker.json(*deny)
    assert (first.status, second.status) == (0, 0)
    assert first.rows[0]["sequence"] == second.rows[0]["sequence"]


def test_the_diary_is_read_sealed_verified_and_exported(issuer: Issuer):
    asker = issuer.asker
    assert asker.json("audit", "tail", "--lines", "1").rows[0]["sequence"] >= 1
    sealed = asker.json("audit", "checkpoint").rows[0]
    verified = asker.json("audit", "verify")
    assert verified.status == 0
    assert verified.rows[0]["last_checkpoint"]["sequence"] == sealed["sequence"]
    file = asker.root / "audit.jsonl"
    exported = asker.json("audit", "export", "--out", str(file)).rows[0]
    assert exported["records"] == len(file.read_text().splitlines()) > 0


def test_an_instance_nobody_knows_is_an_error_with_a_remedy(issuer: Issuer):
    done = issuer.asker.ask("token", "create", "--instance", str(uuid.uuid4()))
    assert done.status == 1
    assert done.notes.startswith("trove-pki: ")


def test_authorities_are_listed_and_shown(issuer: Issuer):
    rows = issuer.asker.json("ca", "list").rows
    assert {(row["authority"], row["generation"], row["state"]) for row in rows} == {
        (name, 1, "ACTIVE")
        for name in ("root", "guest", "service", "operator", "database-root", "database")
    }
    signed_by = {row["authority"]: row["signed_by"] for row in rows}
    assert (signed_by["root"], signed_by["database"]) == ("self", "database-root g1")
    assert "signed by root g1" in issuer.asker.ask("ca", "show", "guest").out


def test_crl_is_signed_by_the_generation_it_is_for(issuer: Issuer):
    asker, file = issuer.asker, issuer.asker.root / "guest.crl"
    assert asker.ask("crl", "export", "guest", "--out", str(file)).status == 0
    pem = asker.ask("bundle", "show", "--authority", "guest", "--pem").out
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    assert x509.load_der_x509_crl(file.read_bytes()).is_signature_valid(key)


def test_taint_of_what_signs_is_refused_without_a_successor(issuer: Issuer):
    done = issuer.asker.ask("taint", "guest", "1", "--reason", "copied", "--yes")
    assert done.status == 4
    states = {row["authority"]: row["state"] for row in issuer.asker.json("ca", "list").rows}
    assert states["guest"] == "ACTIVE"


START = ("rotate", "start", "intermediate", "guest", "--yes")


def test_a_rotation_goes_from_its_plan_by_its_gates_to_its_end(issuer: Issuer):
    asker = issuer.asker
    plan = asker.json("rotate", "plan", "intermediate", "guest").rows[0]
    assert (plan["plan"], plan["obstacles"]) == ("rotate guest g1->new", [])
    assert asker.json("rotate", "status").rows == []
    started = asker.json(*START, "--wait", "--timeout", "60s")
    assert started.status == 0, started.notes
    name = started.rows[0]["rotation_id"]
    assert started.rows[0]["phase"] == "READY"
    assert asker.json("rotate", "status").rows[0]["rotation_id"] == name
    switched = asker.json("rotate", "advance", name, "--yes", "--wait", "--timeout", "60s")
    assert (switched.status, switched.rows[0]["phase"]) == (0, "DRAINED"), switched.notes
    retired = asker.json("rotate", "retire", name, "--yes", "--wait", "--timeout", "60s")
    assert (retired.status, retired.rows[0]["phase"]) == (0, "RETIRED"), retired.notes
    assert asker.ask("rotate", "retire", name, "--yes").status == 3


def test_an_automatic_rotation_needs_nobody(issuer: Issuer):
    done = issuer.asker.json(*START, "--auto", "--wait", "--timeout", "60s")
    assert (done.status, done.rows[0]["phase"]) == (0, "RETIRED"), done.notes


def test_a_rotation_is_held_let_go_on_and_given_up(issuer: Issuer):
    asker = issuer.asker
    name = asker.json(*START).rows[0]["rotation_id"]
    pause = ("rotate", "pause", name, "--reason", "not now")
    assert asker.json(*pause).rows[0]["is_paused"] is True
    assert asker.ask(*pause).status == 3
    assert asker.ask("rotate", "status", name, "--wait").status == 5
    resumed = asker.json("rotate", "resume", name, "--wait", "--timeout", "60s")
    assert (resumed.status, resumed.rows[0]["phase"]) == (0, "READY")
    back = ("rotate", "rollback", name, "--reason", "not today", "--yes")
    done = asker.json(*back, "--wait", "--timeout", "60s")
    assert (done.status, done.rows[0]["phase"]) == (0, "ABORTED")
    assert asker.ask(*back).status == 3


def test_unknown_rotations_and_gates_that_are_not_there_are_told(issuer: Issuer):
    asker = issuer.asker
    assert asker.ask("rotate", "status", "rot-9999").status == 1
    name = asker.json(*START, "--wait", "--timeout", "60s").rows[0]["rotation_id"]
    assert asker.ask("rotate", "advance", name, "--to", "retired", "--yes").status == 4
    assert asker.ask("rotate", "retire", name, "--yes").status == 4


def test_an_agent_is_listed_denied_allowed_and_given_a_token(issuer: Issuer):
    asker, name = issuer.asker, issuer.instance_id
    (row,) = asker.json("agents", "list").rows
    assert (row["instance_id"], row["state"], row["is_online"]) == (name, "NEVER", False)
    assert asker.json("agents", "list", "--state", "lost").rows == []
    assert asker.json("agents", "show", name).rows[0]["instance_id"] == name
    word = ("--reason", "test")
    assert asker.json("agents", "deny", name, "--yes", *word).status == 0
    assert asker.json("agents", "show", name).rows[0]["state"] == "DENIED"
    assert asker.json("agents", "allow", name, *word).rows[0]["was_lifted"] is True
    assert asker.ask("agents", "allow", name, *word).status == 3
    assert asker.json("agents", "allow-recovery", name, "--for", "2h", *word).status == 0
    assert asker.json("agents", "reissue-token", name).rows[0]["token"].startswith("trv1.")
    assert asker.ask("agents", "reissue-token", "--stale").status == 3
    assert asker.ask("agents", "show", str(uuid.uuid4())).status == 1


def test_trust_in_another_region_begins_never_goes_back_and_ends(issuer: Issuer):
    asker, file = issuer.asker, issuer.asker.root / "region-b.json"
    region = TestAuthority("region-b.trove")
    add = ("federation", "add", "region-b.trove", "--file", str(file), "--yes")
    file.write_text(spiffe_bundles.render(region.bundle(version=5)))
    added = asker.json(*add).rows[0]
    assert (added["trust_domain"], added["sequence"], added["roots"]) == ("region-b.trove", 5, 1)
    assert asker.json(*add).status == 0
    file.write_text(spiffe_bundles.render(region.bundle(version=4)))
    assert asker.ask(*add).status == 4
    (row,) = asker.json("federation", "list").rows
    assert row["sequence"] == 5
    remove = ("federation", "remove", "region-b.trove", "--yes")
    assert asker.ask(*remove).status == 0
    assert asker.ask(*remove).status == 3
    assert asker.json("federation", "list").rows == []


def test_the_command_that_helps_is_one_that_works_as_printed(private_directory: Path):
    with running(private_directory) as (asker, real):
        real.register()
        real.enrol(real.register(), dt.datetime.now(dt.UTC) - dt.timedelta(days=40))
        denied = real.register()
        asker.ask("agents", "deny", denied, "--reason", "test", "--yes")
        rows = asker.json("agents", "list").rows
        assert {row["state"] for row in rows} == {"NEVER", "LOST", "DENIED"}
        for row in rows:
            done = asker.ask(*shlex.split(row["command"])[1:])
            assert done.status == 0, (row, done)


def test_status_and_doctor_say_how_it_stands(issuer: Issuer):
    asker = issuer.asker
    asker.ask("audit", "checkpoint")
    row = asker.json("status").rows[0]
    assert row["trust_domain"] == "local.trove"
    assert row["agents"]["never"] == 1
    assert row["audit"]["problem"] == ""
    assert "no rotation is open" in asker.ask("status").out
    assert asker.json("doctor").rows == []
    assert asker.json("certs", "check-expiration").status == 0
