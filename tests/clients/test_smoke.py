"""What `make test` runs of the clients; all of it runs with `make test-clients`."""

from __future__ import annotations

import configparser

from tests.clients.command_table import COMMANDS, NOT_YET


def test_every_command_of_the_plugin_has_a_row_or_is_named_as_missing(binaries):
    (points,) = binaries.parent.glob(
        "lib/python3*/site-packages/python_troveclient*/entry_points.txt"
    )
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read(points)
    # An underscore stands for a space.
    known = {name.replace("_", " ") for name in parser["openstack.database.v1"]}
    rows = {
        max((name for name in known if f"{each.line} ".startswith(f"{name} ")), key=len)
        for each in COMMANDS
    }
    assert rows & NOT_YET == set()
    assert rows | NOT_YET == known


def test_commands_and_sdk_work_on_a_real_installation(clients):
    for command in COMMANDS:
        if command.smoke:
            clients.check(command)
    answers = clients.sdk("flavors", "instances")
    assert "db.tiny" in answers["flavors"]
    assert set(answers["instances"]) == {"clients", "spare", "cli"}
