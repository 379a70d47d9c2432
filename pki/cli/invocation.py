"""One command line that is being carried out."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from pki.cli.connection import Issuer, open_issuer
from pki.cli.console import Console
from pki.cli.exits import Exit

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Invocation:
    """What was asked, where the answer goes, and the way to the issuer."""

    options: argparse.Namespace
    console: Console
    now: dt.datetime
    poll: float = 1.0  # seconds between two looks at something that is waited for

    def ask(self, work: Callable[[Issuer], Awaitable[Result]]) -> Result:
        """Run `work` with a connection as the options say."""

        async def run() -> Result:
            async with open_issuer(
                socket=self.options.socket,
                issuer=getattr(self.options, "issuer", None),
                identity=self.options.identity if "issuer" in self.options else None,
            ) as issuer:
                return await work(issuer)

        return asyncio.run(run())


Command: TypeAlias = Callable[[Invocation], Exit]
