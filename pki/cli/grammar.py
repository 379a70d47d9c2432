"""The words of the command line: how verbs are declared, and read back for help and completion."""

from __future__ import annotations

import argparse
import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pki.cli import times
from pki.cli.console import FORMATS
from pki.cli.invocation import Command

# In force where neither side of the verb says otherwise.
DEFAULTS: dict[str, Any] = {
    "output": "table",
    "yes": False,
    "dry_run": False,
    "wait": False,
    "timeout": None,
}


class Reach(enum.Enum):
    """How a verb gets at what it needs."""

    ISSUER = enum.auto()  # the local socket, or mutual TLS with an operator's certificate
    SOCKET = enum.auto()  # the local socket alone
    CONFIG = enum.auto()  # no issuer: its settings, its database, its keys
    NOTHING = enum.auto()


@dataclass(frozen=True, slots=True)
class Spelling:
    """One command as it is written."""

    path: tuple[str, ...]
    parser: argparse.ArgumentParser
    summary: str

    @property
    def arguments(self) -> Sequence[argparse.Action]:
        return [
            action
            for action in self.parser._actions  # noqa: SLF001  argparse has no other way
            if not isinstance(action, argparse._HelpAction)  # noqa: SLF001
            and action.dest not in DEFAULTS
        ]


class Verbs:
    """A place where verbs are added: the top, or a group."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser
        self._subparsers = parser.add_subparsers(required=True, metavar="VERB")

    def group(self, name: str, summary: str) -> Verbs:
        return Verbs(self._subparsers.add_parser(name, help=summary, description=summary))

    def verb(
        self, name: str, run: Command, summary: str, *, reach: Reach = Reach.ISSUER
    ) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = self._subparsers.add_parser(
            name, help=summary, description=summary
        )
        add_global_options(parser)
        if reach in (Reach.ISSUER, Reach.SOCKET):
            parser.add_argument(
                "--socket", type=Path, help="the issuer's operator socket on this host"
            )
        if reach is Reach.ISSUER:
            parser.add_argument(
                "--issuer", metavar="HOST:PORT", help="the issuer's internal listener"
            )
            parser.add_argument(
                "--identity",
                type=Path,
                metavar="DIR",
                help="with --issuer: an operator's identity",
            )
        if reach is Reach.CONFIG:
            parser.add_argument(
                "--config", type=Path, required=True, help="the issuer's TOML file"
            )
        parser.set_defaults(run=run)
        return parser


def add_global_options(parser: argparse.ArgumentParser) -> None:
    """The flags that may stand before the verb or after it."""
    # Without a default of its own a flag after the verb does not undo the one before it.
    absent = argparse.SUPPRESS
    parser.add_argument("--output", choices=FORMATS, default=absent, help="default: table")
    parser.add_argument(
        "--yes", action="store_true", default=absent, help="do it without being asked again"
    )
    parser.add_argument(
        "--dry-run", action="store_true", default=absent, help="only say what would be done"
    )
    parser.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=absent,
        help="stay until it is done, and show how it goes",
    )
    parser.add_argument(
        "--timeout",
        type=times.parse_span,
        default=absent,
        metavar="SPAN",
        help="with --wait: give up after this long, 30m for example",
    )


def spellings(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = (), summary: str = ""
) -> Iterator[Spelling]:
    """Every command below `parser`, in the order they were declared."""
    for action in parser._actions:  # noqa: SLF001  argparse has no other way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            helps = {each.dest: each.help or "" for each in action._choices_actions}  # noqa: SLF001
            for name, child in action.choices.items():
                yield from spellings(child, (*path, name), helps.get(name, ""))
            return
    yield Spelling(path, parser, summary)
