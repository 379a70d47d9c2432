"""`trove-pki` in this process against an issuer in memory."""

from __future__ import annotations

import argparse
import datetime as dt
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pki.cli import program
from pki.cli.console import Console
from pki.cli.grammar import DEFAULTS
from pki.cli.invocation import Invocation
from tests.fakes.fake_issuer_admin import FakeIssuerAdmin


class Terminal(io.StringIO):
    """Text that comes from, or goes to, somebody at a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass
class Done:
    """How a command ended and what it said."""

    status: int
    out: str
    notes: str

    @property
    def rows(self) -> Any:
        return json.loads(self.out)


class Asker:
    """Somebody who asks an issuer by its socket."""

    def __init__(self, root: Path, socket: Path) -> None:
        self.root = root
        self.socket = socket

    def run(self, *arguments: str, typed: str | None = None) -> Done:
        """Run a command exactly as written; `typed` is what somebody at a terminal answers."""
        stream = io.StringIO if typed is None else Terminal
        out, notes, source = io.StringIO(), stream(), stream(f"{typed or ''}\n")
        options = program.build_parser().parse_args(arguments, argparse.Namespace(**DEFAULTS))
        console = Console(out=out, notes=notes, source=source, form=options.output)
        status = program.run(Invocation(options, console, dt.datetime.now(dt.UTC), poll=0.01))
        return Done(status, out.getvalue(), notes.getvalue())

    def ask(self, *arguments: str, typed: str | None = None) -> Done:
        """Run a command over the local socket, for people."""
        return self.run(*arguments, "--socket", str(self.socket), typed=typed)

    def json(self, *arguments: str) -> Done:
        return self.ask("--output", "json", *arguments)


class Scene(Asker):
    """An issuer in memory and somebody who asks it."""

    def __init__(self, root: Path, fake: FakeIssuerAdmin) -> None:
        super().__init__(root, fake.socket)
        self.fake = fake
        self.state = fake.state


@pytest.fixture
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="trove-cli-") as name:
        fake = FakeIssuerAdmin(Path(name))
        fake.start()
        try:
            yield Scene(Path(name), fake)
        finally:
            fake.stop()
