"""Every `openstack` command of Trove's plugin: a row for what is carried out, a name for the rest.

Rows run in this order on one installation with one healthy instance. `{instance}`, `{spare}`,
`{version}` and so on are filled in by the suite (see `place` in conftest.py).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command line and what shows that it worked."""

    line: str
    # Text that its output must hold; its columns or keys for commands that print JSON.
    shows: tuple[str, ...] = ()
    # Whether it prints something that `-f json` makes readable.
    reads: bool = True
    # Part of what a refusal says, where the command is refused as Trove would.
    refused: str = ""
    # Whether `make test` runs it too.
    smoke: bool = False


COMMANDS = (
    Command("datastore list", ("ID", "Name"), smoke=True),
    Command("datastore show {datastore}", ("id", "name")),
    Command("datastore version list {datastore}", ("ID", "Name", "Version"), smoke=True),
    Command("datastore version show {version} --datastore {datastore}", ("id", "name")),
    Command("database flavor list", ("ID", "Name", "RAM", "vCPUs"), smoke=True),
    Command("database flavor show {flavor}", ("id", "name", "ram")),
    # Its own tables, whatever -f says.
    Command("database limit list", ("max_instances",), reads=False),
    Command(
        "database instance create cli --flavor {flavor} --size 1 --datastore {datastore}",
        ("BUILD", "cli"),
        smoke=True,
    ),
    Command("database instance list", ("ID", "Name", "Status"), smoke=True),
    Command("database instance show {instance}", ("id", "name", "operating_status"), smoke=True),
    Command("database instance show clients", ("id",)),
    Command("database instance update {instance} --name renamed", reads=False),
    Command("database instance show renamed", ("renamed",)),
    Command("database instance update {instance} --name clients", reads=False),
    Command("database backup list", ()),
    Command("database backup list instance {instance}", ()),
    Command("database backup show none", refused="none"),
    Command("database backup strategy list", ()),
    Command("database cluster list", ()),
    Command("database cluster show none", refused="none"),
    Command(
        'database configuration create cli {{"work_mem":8192}} '
        "--datastore {datastore} --datastore-version {version}",
        ("cli", "work_mem"),
    ),
    Command("database configuration list", ("cli", "{group}")),
    Command("database configuration show {group}", ("work_mem",)),
    Command("database configuration show none", refused="none"),
    Command("database configuration default {instance}", ("shared_buffers",)),
    Command("database configuration parameter list {version}", ("work_mem", "integer")),
    Command("database configuration parameter show {version} work_mem", ("work_mem", "integer")),
    Command('database configuration parameter set {group} {{"work_mem":4096}}', reads=False),
    Command('database configuration set {group} {{"work_mem":4096}} --name again', reads=False),
    Command("database configuration instances {group}", ()),
    Command("database configuration delete {group}", reads=False),
    Command("database db create {instance} shop", reads=False),
    Command("database db list {instance}", ("Name", "shop")),
    Command("database user create {instance} ann s3cret-Pass --databases shop", reads=False),
    Command("database user list {instance}", ("Name", "ann")),
    Command("database user show {instance} ann", ("ann", "shop")),
    Command("database user show access {instance} ann", ("shop",)),
    Command("database user revoke access {instance} ann shop", reads=False),
    Command("database user grant access {instance} ann shop", reads=False),
    Command("database user update attributes {instance} ann --new_name eve", reads=False),
    Command("database user delete {instance} eve", reads=False),
    Command("database db delete {instance} shop", reads=False),
    Command("database root show {instance}", ("is_root_enabled",)),
    Command("database root enable {instance}", ("password",)),
    Command("database root disable {instance}", reads=False),
    Command("database instance delete {spare}", reads=False),
)

# Commands of the plugin without a row. Whoever makes one real moves it up.
NOT_YET = frozenset(
    {
        *(f"database backup {verb}" for verb in ("create", "delete", "execution delete")),
        *(f"database backup strategy {verb}" for verb in ("create", "delete")),
        *(
            f"database cluster {verb}"
            for verb in (
                *("create", "delete", "force delete", "grow", "list instances", "modules"),
                *("reset status", "shrink", "upgrade"),
            )
        ),
        # An operation each: tests/acceptance/configuration-groups waits for its end.
        *(f"database configuration {verb}" for verb in ("attach", "detach")),
        *(
            f"database instance {verb}"
            for verb in (
                *("detach", "eject", "force delete", "promote", "reboot", "rebuild"),
                *("reset status", "resize flavor", "resize volume", "restart", "upgrade"),
            )
        ),
        *(f"database log {verb}" for verb in ("list", "save", "set", "show", "tail")),
        # Both ask Keystone for the project's id first.
        *(f"database quota {verb}" for verb in ("show", "update")),
        *(f"database ssl {verb}" for verb in ("disable", "enable", "rollback", "show")),
        "datastore delete",
        *(f"datastore version {verb}" for verb in ("create", "delete", "set")),
    }
)
