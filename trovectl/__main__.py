"""`trovectl`: runs an installation on one machine, and shows what it does."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import os
import signal
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from trove_grpc import logs, process
from trove_grpc.errors import InvalidRequestError, TroveError
from trovectl import connect, demo, doctor, down, ports, state_databases, status, up
from trovectl.client import Installation
from trovectl.layout import Layout
from trovectl.plane import MOST_GATEWAYS, NAMES


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 asked for wrongly."""
    options = _parser().parse_args(arguments)
    options.state_dir = options.state_dir.resolve()
    try:
        return int(options.run(options))
    except TroveError as error:
        print(f"trovectl: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, InvalidRequestError) else 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trovectl", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def verb(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=summary, description=summary)
        added.add_argument(
            "--state-dir",
            type=Path,
            default=_default_state(),
            help="everything is kept here (default: %(default)s)",
        )
        added.set_defaults(run=run)
        return added

    upwards = verb("up", _up, "Start everything and look after it until Ctrl-C.")
    upwards.add_argument(
        "--rest-listen", default=up.REST_LISTEN, help="REST API, loopback (default: %(default)s)"
    )
    upwards.add_argument(
        "--users",
        choices=("auto", "single"),
        default="auto",
        help="as root: a system user for each process (auto); single: ourselves",
    )
    upwards.add_argument(
        "--gateways",
        type=int,
        choices=range(1, MOST_GATEWAYS + 1),
        default=1,
        metavar="N",
        help=f"guest gateways, 1 to {MOST_GATEWAYS}; agents know them all (default: %(default)s)",
    )
    upwards.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="PROCESS.SETTING=VALUE",
        help=f"a setting of {', '.join(NAMES)} or agent, as in its config.toml; repeatable",
    )
    upwards.add_argument(
        "--database-url",
        action="append",
        default=[],
        metavar="[PROCESS=]URL",
        help="PostgreSQL or MariaDB instead of SQLite, without a password; PROCESS is conductor "
        "(default), issuer or taskmanager; repeatable",
    )
    upwards.add_argument(
        "--database-password-file",
        action="append",
        default=[],
        metavar="[PROCESS=]FILE",
        help="file of mode 0600 with the password for that URL; repeatable",
    )
    verb("down", _down, "Stop what `up` started.")
    for name, run, summary in (
        ("status", _status, "Show processes, instances and guests."),
        ("events", _events, "Show an instance's operations with their steps."),
    ):
        added = verb(name, run, summary)
        added.add_argument("--output", choices=("table", "json"), default="table")
        if name == "events":
            added.add_argument("instance", help="name or id")
    client = verb("connect", _connect, "Open the engine's own client, everything verified.")
    client.add_argument("instance", help="name or id")
    client.add_argument("--user", required=True, help="of the database; the client asks for more")
    client.add_argument("--database", default="", help="Redis: its number (default: the client's)")
    examined = verb(
        "doctor", _doctor, "Say what is wrong, why, and what to do; 1 when anything is."
    )
    examined.add_argument("--output", choices=("table", "json"), default="table")
    shown = verb("demo", _demo, "Create a database through REST, break it, watch it come back.")
    shown.set_defaults(state_dir=_default_demo_state())
    shown.add_argument(
        "--keep", action="store_true", default=_kept(), help="leave it up (also: KEEP=1)"
    )
    return parser


def _default_state() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/trove")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "trove"


def _default_demo_state() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/trove-demo")
    return Path(__file__).resolve().parent.parent / ".state" / "demo"


def _kept() -> bool:
    return os.environ.get("KEEP", "") not in ("", "0")


def _up(options: argparse.Namespace) -> int:
    process.harden()
    ports.split(options.rest_listen)
    asked = up.Options(
        state=options.state_dir,
        rest_listen=options.rest_listen,
        users=options.users,
        overrides=_overrides(options.settings),
        gateways=options.gateways,
        state_databases=state_databases.parse(
            options.database_url, options.database_password_file
        ),
    )

    async def serve(stop: asyncio.Event) -> None:
        # A closed terminal is a wish to stop as well.
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, stop.set)
        await up.serve(asked, stop, say=_say)

    with up.held_lock(asked.state):
        log = Layout(asked.state).log("supervisor")
        log.parent.mkdir(mode=0o700, exist_ok=True)
        with log.open("a") as stream:
            logs.configure("supervisor", stream=stream)
            failed: list[TroveError] = []

            async def reporting(stop: asyncio.Event) -> None:
                try:
                    await serve(stop)
                except TroveError as error:
                    failed.append(error)

            code = process.run(reporting)
            if failed:
                raise failed[0]
            return code


def _say(line: str) -> None:
    print(line, flush=True)


def _overrides(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for setting in settings:
        name, dot, rest = setting.partition(".")
        key, equals, text = rest.partition("=")
        if not dot or not equals or name not in (*NAMES, "agent"):
            raise InvalidRequestError(
                f"--set {setting}: expected PROCESS.SETTING=VALUE, "
                f"PROCESS one of {', '.join(NAMES)}, agent"
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        found.setdefault(name, {})[key] = value
    return found


def _down(options: argparse.Namespace) -> int:
    print(down.stop(options.state_dir))
    return 0


def _status(options: argparse.Namespace) -> int:
    installation = Installation(options.state_dir)
    print(asyncio.run(status.status(installation, as_json=options.output == "json")))
    return 0


def _events(options: argparse.Namespace) -> int:
    installation = Installation(options.state_dir)
    as_json = options.output == "json"
    print(asyncio.run(status.events(installation, options.instance, as_json=as_json)))
    return 0


def _connect(options: argparse.Namespace) -> NoReturn:
    wanted = connect.find(
        options.state_dir, options.instance, user=options.user, database=options.database
    )
    connect.become(connect.client(asyncio.run(wanted), os.environ))


def _doctor(options: argparse.Namespace) -> int:
    found = asyncio.run(doctor.examine(options.state_dir, now=dt.datetime.now(dt.UTC)))
    print(doctor.render(found, as_json=options.output == "json"))
    return 1 if found else 0


def _demo(options: argparse.Namespace) -> int:
    return demo.run(options.state_dir, keep=options.keep)


if __name__ == "__main__":
    sys.exit(main())
