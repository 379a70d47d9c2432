"""The clients in their own environment, and one installation with a healthy instance for them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.installation import PROJECT, Installation, installation
from tests.clients.command_table import Command
from tests.openstack.harness import environment

HERE = Path(__file__).parent
COMMAND_SECONDS = 150


@dataclass(frozen=True)
class Clients:
    """Unmodified clients against one endpoint, without a token as `--auth none` allows."""

    binaries: Path
    endpoint: str
    home: Path
    values: dict[str, str]

    def openstack(self, command: Command) -> str:
        """Its output; a refusal that was not foreseen fails."""
        done = self.run(
            str(self.binaries / "openstack"),
            *("--os-auth-type", "none", "--os-endpoint", self.endpoint),
            *command.line.format_map(self.values).split(),
            *(("-f", "json") if command.reads else ()),
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == bool(command.refused), said
        assert command.refused in said
        return done.stdout

    def check(self, command: Command) -> None:
        output = self.openstack(command)
        if command.reads and not command.refused:
            json.loads(output)
        for text in command.shows:
            assert text.format_map(self.values) in output, output

    def sdk(self, *verbs: str) -> dict[str, Any]:
        done = self.run(
            *(str(self.binaries / "python"), str(HERE / "sdk_program.py"), self.endpoint, *verbs)
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = {}
        for line in done.stdout.splitlines():
            found |= json.loads(line)
        return found

    def run(self, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
            env={"HOME": str(self.home), "PATH": os.defpath, "LANG": "C.UTF-8"} | environment,
        )


@pytest.fixture(scope="session")
def binaries() -> Path:
    return environment.ensure("clients", HERE / "requirements.lock")


@pytest.fixture(scope="module")
def place() -> Iterator[Installation]:
    with installation() as made:
        yield made


@pytest.fixture(scope="module")
def clients(
    place: Installation, binaries: Path, tmp_path_factory: pytest.TempPathFactory
) -> Clients:
    """With an instance `clients` that is healthy and a spare one to delete."""
    datastore = place.request("GET", "/datastores/postgresql")[1]["datastore"]
    made = {"instance": place.create("clients"), "spare": place.create("spare")}
    for instance_id in made.values():
        place.await_healthy(instance_id)
    group = {"name": "clients", "values": {"work_mem": 4096}, "datastore": {"type": "postgresql"}}
    status, answer = place.request("POST", "/configurations", {"configuration": group})
    assert status == 200, answer
    return Clients(
        binaries=binaries,
        endpoint=f"http://{place.rest}/v1.0/{PROJECT}",
        home=tmp_path_factory.mktemp("home"),
        values={
            "project": PROJECT,
            "datastore": "postgresql",
            "version": datastore["versions"][0]["id"],
            "flavor": "1",
            "group": answer["configuration"]["id"],
            **made,
        },
    )
