"""Settings of a process: a frozen dataclass from TOML, then environment, then command line.

The last one wins. An unknown key is a refusal to start: a misspelt setting that is silently
ignored is found at 2 a.m. Secrets appear in settings as paths only.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from trove_grpc.errors import InvalidRequestError

Settings = TypeVar("Settings")


def load(
    cls: type[Settings],
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    prefix: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Build `cls` from `file`, `<prefix>_<FIELD>` variables (top level) and `overrides`.

    Durations are seconds (int or float) for fields of type timedelta.
    Raises InvalidRequestError that names the file and the key.
    """
    values: dict[str, Any] = {}
    source = "the command line"
    if file is not None:
        source = str(file)
        try:
            values = tomllib.loads(file.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InvalidRequestError(f"cannot read {file}: {error}") from error
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name, text in (environment or {}).items():
        key = name.removeprefix(f"{prefix}_").lower()
        if prefix and name.startswith(f"{prefix}_") and key in known:
            values[key] = text
    values.update(overrides or {})
    return typing.cast("Settings", _build(cls, values, source))


def _build(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - set(fields)):
        raise InvalidRequestError(
            f"{where}: unknown setting {unknown[0]!r}; known: {', '.join(sorted(fields))}"
        )
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InvalidRequestError(f"{where}: setting {missing[0]!r} is required")
    built = {
        name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()
    }
    return cls(**built)


def _convert(hint: Any, value: Any, where: str) -> Any:  # noqa: C901, PLR0912  one case per type
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    try:
        if origin in (types.UnionType, typing.Union):
            if value is None:
                return None
            return _convert(next(a for a in arguments if a is not type(None)), value, where)
        if origin is tuple:
            items = value.split(",") if isinstance(value, str) else value
            return tuple(_convert(arguments[0], item, where) for item in items)
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise TypeError("expected a table")
            return _build(hint, value, where)
        if hint is dt.timedelta:
            return dt.timedelta(seconds=float(value))
        if hint is Path:
            return Path(value)
        if hint is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
        if hint in (int, float, str):
            if hint is not str and isinstance(value, bool):
                raise TypeError("expected a number")
            if hint is str and not isinstance(value, str):
                raise TypeError("expected text")
            return hint(value)
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidRequestError(f"{where}: cannot read {value!r}: {error}") from error
    raise InvalidRequestError(f"{where}: settings of type {hint!r} are not supported")
