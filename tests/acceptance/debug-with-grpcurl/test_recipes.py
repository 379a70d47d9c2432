"""docs/how-to/debug-with-grpcurl.md, run as it stands with the real grpcurl."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.installation import PROJECT, Installation

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "how-to" / "debug-with-grpcurl.md").read_text()
# Heading, kind of block, its text.
BLOCKS = [
    (heading, kind.strip(), text)
    for heading, section in re.findall(
        r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE
    )
    for kind, text in re.findall(r"^```bash(.*?)\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
]
RECIPES = {heading: text for heading, kind, text in BLOCKS if not kind}
REFUSED = [text for _, kind, text in BLOCKS if kind == "refused"]


def block(wanted: str) -> str:
    (text,) = (text for _, kind, text in BLOCKS if kind == wanted)
    return text


# What an answer must show, given the instance; a recipe without a line here fails.
SHOWS: dict[str, Callable[[str, str], object]] = {
    "Is a process up and serving?": lambda out, _: json.loads(out) == {"status": "SERVING"},
    "What can be asked?": lambda out, _: (
        "trove.conductor.v1.ReportService\n" in out and "rpc ListOpenOperations" in out
    ),
    "Which guests hold a session at this gateway?": lambda out, instance: (
        instance in {each["instance_id"] for each in json.loads(out)["sessions"]}
    ),
    "At which gateway is an instance's session?": lambda out, _: json.loads(out)[
        "gateway_address"
    ].startswith("127.0.0.1:"),
    "What did an agent say last?": lambda out, _: json.loads(out)["is_present"],
    "Which operations are open?": lambda out, _: isinstance(json.loads(out), dict),
    "What does the database of record say of an instance?": lambda out, instance: (
        json.loads(out)["instance"]["id"] == instance
        and json.loads(out)["instance"]["status"] == "ACTIVE"
    ),
    "Which identities are denied?": lambda out, _: isinstance(json.loads(out), dict),
    "Give a guest another enrolment token": lambda out, _: (
        {"token_id", "token"} <= json.loads(out).keys()
    ),
}


class Shell:
    """A person's shell on the machine of the installation."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euc", f"{block('words')}\n{text}"],
            env=self._environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def grpcurl() -> str:
    """The directory of the program; skips, with the reason, where it cannot be had."""
    done = subprocess.run(
        [str(ROOT / "tools" / "setup-grpcurl")],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def instance_id(grpcurl: str, shared: Installation) -> str:  # noqa: ARG001  no database without it
    made = shared.create("looked-at")
    shared.await_healthy(made)
    return made


@pytest.fixture(scope="module")
def shell(
    grpcurl: str,
    shared: Installation,
    instance_id: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Shell:
    path = [grpcurl, str(Path(sys.executable).parent), os.environ["PATH"]]
    shell = Shell(
        {
            "PATH": os.pathsep.join(path),
            "HOME": str(tmp_path_factory.mktemp("home")),
            "STATE": str(shared.state),
            "INSTANCE": instance_id,
            "PROJECT": PROJECT,
        }
    )
    begun = shell.run(block("install") + block("once"))
    assert begun.returncode == 0, begun.stderr
    return shell


def test_every_recipe_has_its_test():
    assert set(RECIPES) == set(SHOWS)
    assert len(REFUSED) == 3


@pytest.mark.parametrize("recipe", SHOWS)
def test_the_recipe_works_as_written(shell: Shell, instance_id: str, recipe: str):
    done = shell.run(RECIPES[recipe])
    assert done.returncode == 0, done.stderr
    assert SHOWS[recipe](done.stdout, instance_id), done.stdout


@pytest.mark.parametrize("number", range(3))
def test_what_the_page_calls_refused_is_refused(shell: Shell, number: int):
    done = shell.run(REFUSED[number])
    assert done.returncode != 0
    assert "trove." not in done.stdout
    refusals = "PermissionDenied|context deadline exceeded|tls: |connection reset|EOF"
    assert re.search(refusals, done.stderr), done.stderr
