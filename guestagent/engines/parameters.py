"""What a tenant may write into an engine's own include file, and the file itself.

The control plane checks names, types and ranges; here nothing is taken on trust that could make
one value another setting, or touch what the agent answers for: TLS, users, paths, listening.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from guestagent.engines.tools import Tools
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2

HEADER = b"# Written by the guest agent from a configuration group; edits are lost.\n"
_NAME = re.compile(r"\A[a-z][a-z0-9_-]{0,62}\Z", re.ASCII)
# Printable ASCII without quotes and backslashes: nothing that ends or escapes a quoted value in
# the files of any engine, and no line end.
_TEXT = re.compile(r"\A[ !#-&(-\[\]-~]{0,1024}\Z", re.ASCII)
_LINE = re.compile(r"^([a-z][a-z0-9_-]*)\s*=?\s*(.*)$", re.ASCII | re.MULTILINE)


def check(parameters: Iterable[engine_pb2.Parameter], *, forbidden: re.Pattern[str]) -> None:
    """Raise InvalidRequestError for a name or a value that no include file of ours may hold."""
    seen: set[str] = set()
    for parameter in parameters:
        name = parameter.name
        if not _NAME.match(name):
            raise InvalidRequestError(f"{name!r} is no name of a parameter", subject=name)
        if name in seen:
            raise InvalidRequestError(f"parameter {name} is given twice", subject=name)
        seen.add(name)
        if forbidden.search(name):
            raise InvalidRequestError(
                f"parameter {name} belongs to the guest agent; take it out of the group",
                subject=name,
            )
        if parameter.WhichOneof("value") is None:
            raise InvalidRequestError(f"parameter {name} has no value", subject=name)
        if not _TEXT.match(parameter.text):
            raise InvalidRequestError(
                f"parameter {name}: a value has at most 1024 printable ASCII characters and "
                "neither quotes nor backslashes",
                subject=name,
            )


def text_of(parameter: engine_pb2.Parameter, *, true: str = "on", false: str = "off") -> str:
    """A checked value as the engine spells it."""
    kind = parameter.WhichOneof("value")
    if kind == "boolean":
        return true if parameter.boolean else false
    if kind == "number":
        return repr(parameter.number)
    return str(getattr(parameter, kind or "text"))


class IncludeFile:
    """The tenant's settings, and beside them those the engine last started with.

    A file is *on trial* until the engine has started with it and answered; one that does not
    pass is given up for the last good one.
    """

    def __init__(self, tools: Tools, path: Path) -> None:
        self._tools = tools
        self.path = path
        self._good = path.with_name(f"{path.name}.good")

    async def ensure(self) -> None:
        """Be there, empty, where there was none."""
        if await self._tools.read(self.path) is None:
            await self._tools.write(self.path, HEADER)

    async def write(self, lines: Iterable[str]) -> None:
        await self._tools.write(self.path, HEADER + "".join(f"{n}\n" for n in lines).encode())

    async def present(self) -> Mapping[str, str]:
        """Names and values as they stand in the file."""
        return _parse(await self._tools.read(self.path))

    async def good(self) -> Mapping[str, str]:
        return _parse(await self._tools.read(self._good))

    async def is_on_trial(self) -> bool:
        return await self.present() != await self.good()

    async def keep(self) -> None:
        """The engine has started with it."""
        await self._tools.write(self._good, await self._tools.read(self.path) or HEADER)

    async def give_up(self) -> None:
        """Go back to what the engine last started with."""
        await self._tools.write(self.path, await self._tools.read(self._good) or HEADER)


def _parse(data: bytes | None) -> Mapping[str, str]:
    return dict(_LINE.findall((data or b"").decode(errors="replace")))
