"""Unmodified clients through everything that is carried out, on one real installation."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.command_table import COMMANDS, Command


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.line)
def test_openstack_command_does_what_it_says(clients, command: Command):
    clients.check(command)


def test_sdk_follows_an_instance_from_creation_to_its_end(clients):
    answers = clients.sdk("flavors", "life")
    assert answers["flavors"][0] == "db.tiny"
    assert answers["life"] == [True, "sdk-renamed", None]


GOPHERCLOUD = Path(__file__).parent / "gophercloud"
LEAST_GO = (1, 24)
BUILD_SECONDS = 600


def go_version() -> tuple[int, ...]:
    """Of the Go that would build here; () without one."""
    go = shutil.which("go")
    if go is None:
        return ()
    done = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, check=True, cwd="/"
    )
    return tuple(int(part) for part in done.stdout.strip().removeprefix("go").split(".")[:2])


@pytest.mark.skipif(
    go_version() < LEAST_GO, reason="gophercloud needs Go 1.24; Debian 12's own is 1.19"
)
def test_gophercloud_sees_only_states_that_terraform_knows(clients, tmp_path):
    program = tmp_path / "clients"
    subprocess.run(
        ["go", "build", "-mod=readonly", "-o", str(program), "."],
        cwd=GOPHERCLOUD,
        check=True,
        timeout=BUILD_SECONDS,
        env=os.environ | {"GOFLAGS": "-buildvcs=false"},
    )
    done = clients.run(str(program), clients.endpoint, clients.values["version"])
    assert done.returncode == 0, done.stdout + done.stderr
    states = done.stdout.split()
    assert states[0] == "BUILD"
    assert states[-1] == "DELETED"
