"""`trovectl connect` and `trovectl doctor` against a real installation with each engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.installation import Installation, eventually, installation
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.tls import IdentityDirectory, anchors
from trovectl import procfs

PASSWORD = "s3cret-Pass"
ENGINES = {
    "postgresql": {"database": "app", "statement": "SELECT 6 * 7;\n", "secret": "PGPASSWORD"},
    "mariadb": {"database": "app", "statement": "SELECT 6 * 7;\n", "secret": "MYSQL_PWD"},
    "redis": {"database": "3", "statement": "INCRBY n 42\n", "secret": "REDISCLI_AUTH"},
}


@pytest.fixture(scope="module")
def made():
    """Guests that are missed after 6 s instead of 90 s."""
    settings = {"conductor__presence_deadline": "6", "conductor__heartbeat_interval": "2"}
    with installation(**settings) as each:
        yield each


@pytest.fixture(scope="module")
def instances(made: Installation) -> dict[str, str]:
    """The id of a healthy instance of each engine, all with user `ada`."""
    ids = {}
    for engine in ENGINES:
        user = {"name": "ada", "password": PASSWORD}
        wanted = {
            "name": f"the-{engine}",
            "flavorRef": "1",
            "volume": {"size": 1},
            "datastore": {"type": engine},
            "users": [user],
        }
        if engine != "redis":
            wanted["databases"] = [{"name": "app"}]
            user["databases"] = [{"name": "app"}]
        status, body = made.request("POST", "/instances", {"instance": wanted})
        assert status == 200, body
        ids[engine] = body["instance"]["id"]
    for instance_id in ids.values():
        made.await_healthy(instance_id)
    return ids


def trovectl(
    made: Installation, verb: str, *arguments: str, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trovectl", verb, "--state-dir", str(made.state), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
    )


def findings(made: Installation) -> tuple[int, list[dict[str, str]]]:
    done = trovectl(made, "doctor", "--output", "json")
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


@pytest.mark.usefixtures("instances")
@pytest.mark.parametrize("engine", ENGINES)
def test_connect_opens_the_engines_own_client(made, engine):
    way = ENGINES[engine]
    done = trovectl(
        made,
        *("connect", f"the-{engine}", "--user", "ada", "--database", way["database"]),
        stdin=way["statement"],
        **{way["secret"]: PASSWORD},
    )
    assert done.returncode == 0, done.stderr
    assert "42" in done.stdout.split()


@pytest.mark.usefixtures("instances")
@pytest.mark.parametrize("engine", ENGINES)
def test_wrong_password_is_the_clients_own_answer(made, engine):
    way = ENGINES[engine]
    done = trovectl(
        made,
        *("connect", f"the-{engine}", "--user", "ada"),
        stdin=way["statement"],
        **{way["secret"]: "guess"},
    )
    said = (done.stdout + done.stderr).lower()
    assert any(word in said for word in ("authentication failed", "denied", "wrongpass")), said


def test_connect_to_nobody_says_so(made):
    done = trovectl(made, "connect", "nobody", "--user", "ada")
    assert done.returncode == 1
    assert "there is no instance 'nobody'" in done.stderr


def test_databases_of_redis_are_refused_with_troves_501(made):
    wanted = {
        "name": "wrong",
        "flavorRef": "1",
        "volume": {"size": 1},
        "datastore": {"type": "redis"},
        "databases": [{"name": "app"}],
    }
    status, body = made.request("POST", "/instances", {"instance": wanted})
    assert status == 501, body
    assert "wrong" not in {each["name"] for each in made.status()["instances"]}


def test_doctor_finds_nothing_then_what_was_broken_then_nothing(made, instances):
    eventually(lambda: findings(made) == (0, []), "nothing wrong", within=30)
    key = made.state / "conductor" / "sealing.key"
    key.chmod(0o644)
    code, (found,) = findings(made)
    assert code == 1
    assert found["check"] == "permissions"
    assert f"chmod 600 {key}" in found["do"]
    key.chmod(0o600)
    redis = instances["redis"]
    agent = next(
        int(guest["agent_pid"]) for guest in made.status()["guests"] if guest["instance"] == redis
    )
    os.kill(agent, signal.SIGSTOP)
    try:
        silent = eventually(
            lambda: [each for each in findings(made)[1] if "no report" in each["what"]],
            "the silent guest is found",
            within=30,
        )
        assert "the-redis" in silent[0]["what"]
        assert f"guest-{redis}-agent.log" in silent[0]["do"]
    finally:
        os.kill(agent, signal.SIGCONT)
    eventually(lambda: findings(made) == (0, []), "nothing wrong again", within=60)
    shown = trovectl(made, "doctor")
    assert (shown.returncode, shown.stdout) == (0, "nothing wrong was found\n")


def test_redis_killed_with_9_is_back_with_its_data(made, instances, tmp_path):
    redis = instances["redis"]
    host = made.instance(redis)["ip"][0]
    root = tmp_path / "root.pem"
    bundle = IdentityDirectory(made.state / "operator" / "identity").bundle()
    root.write_bytes(anchors(bundle, {trust_pb2.AUTHORITY_KIND_DATABASE_ROOT}))

    def redis_cli(*command: str) -> str:
        done = subprocess.run(
            [
                *("redis-cli", "--tls", "--cacert", str(root), "-h", host, "--user", "ada"),
                *("--no-auth-warning", *command),
            ],
            env={"PATH": os.environ["PATH"], "REDISCLI_AUTH": PASSWORD},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout.strip()

    assert redis_cli("SET", "kept", "yes") == "OK"
    before = made.instance(redis)["engine"]["start_count"]
    server = next(
        process
        for process in procfs.under(made.state / "guests" / redis)
        if Path(f"/proc/{process.pid}/comm").read_text().strip() == "redis-server"
    )
    procfs.send(server, signal.SIGKILL)
    eventually(lambda: redis_cli("GET", "kept") == "yes", "Redis is back", within=60)
    eventually(
        lambda: made.instance(redis)["engine"]["start_count"] == before + 1, "its start is counted"
    )


def test_doctor_says_what_stands_in_the_way_of_a_start(made):
    """Last: it stops the installation."""
    assert made.stop() == 0
    code, found = findings(made)
    assert code == 1
    assert any("nothing runs" in each["what"] for each in found)
    assert not [each for each in found if each["check"] == "ports"]
