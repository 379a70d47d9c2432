"""Reading JSON objects field by field, with messages that name the field and what to do.

A message never repeats a value: the field beside it may be a password.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from trove_grpc.errors import InvalidRequestError

MAX_TEXT = 255
_MAX_SHOWN = 64
# Longest decimal text Trove takes for a number.
_MAX_DIGITS = 40


class Fields:
    """One JSON object and the path to it, for example instance['volume']."""

    def __init__(self, values: Mapping[str, Any], path: str) -> None:
        self._values = values
        self.path = path

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def names(self) -> frozenset[str]:
        return frozenset(self._values)

    def at(self, name: str) -> str:
        return f"{self.path}['{name}']"

    def only(self, *known: str) -> None:
        """Raise for a field that is not among `known`."""
        for name in self._values:
            if name not in known:
                raise invalid(
                    self.path,
                    f"Additional properties are not allowed ({shown(name)} was unexpected); "
                    f"known are {', '.join(known)}",
                )

    def raw(self, name: str) -> Any:
        return self._values.get(name)

    def required_text(self, name: str, *, longest: int = MAX_TEXT) -> str:
        if name not in self._values:
            raise invalid(self.path, f"'{name}' is a required property")
        text = self.text(name, longest=longest)
        if not text:
            raise invalid(self.at(name), "must not be empty")
        return text

    def text(self, name: str, *, longest: int = MAX_TEXT, nullable: bool = False) -> str:
        """A string, or "" where the field is absent (or null, when that is allowed)."""
        value = self._values.get(name)
        if name not in self._values or (nullable and value is None):
            return ""
        if not isinstance(value, str):
            raise invalid(self.at(name), f"must be a string, not {kind_of(value)}")
        if len(value) > longest:
            raise invalid(self.at(name), f"is longer than {longest} characters")
        check_text(value, self.at(name))
        return value

    def boolean(self, name: str) -> bool | None:
        if name not in self._values:
            return None
        value = self._values[name]
        if not isinstance(value, bool):
            raise invalid(self.at(name), f"must be true or false, not {kind_of(value)}")
        return value

    def integer(self, name: str, *, least: int) -> int:
        """An integer or, as Trove takes it, a string of decimal digits."""
        if name not in self._values:
            raise invalid(self.path, f"'{name}' is a required property")
        value = self._values[name]
        if isinstance(value, str) and value.isascii() and value.isdigit():
            if len(value) > _MAX_DIGITS:
                raise invalid(self.at(name), f"is longer than {_MAX_DIGITS} digits")
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(self.at(name), f"must be a whole number, not {kind_of(value)}")
        if value < least:
            raise invalid(self.at(name), f"is less than the minimum of {least}")
        return value

    def object(self, name: str) -> Fields | None:
        if name not in self._values:
            return None
        return as_object(self._values[name], self.at(name))

    def objects(self, name: str, *, most: int) -> Iterator[Fields]:
        """The objects of an array; nothing where the field is absent."""
        for index, item in enumerate(self.array(name, most=most)):
            yield as_object(item, f"{self.at(name)}[{index}]")

    def array(self, name: str, *, most: int) -> list[Any]:
        if name not in self._values:
            return []
        value = self._values[name]
        if not isinstance(value, list):
            raise invalid(self.at(name), f"must be an array, not {kind_of(value)}")
        if len(value) > most:
            raise invalid(self.at(name), f"is too long: at most {most} may be given")
        return value


def as_object(value: Any, path: str) -> Fields:
    if not isinstance(value, dict):
        raise invalid(path, f"must be an object, not {kind_of(value)}")
    return Fields(value, path)


def check_text(value: str, path: str) -> None:
    """Refuse what can neither be stored, sent nor shown: control characters, lone surrogates."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise invalid(path, "contains a control character or a broken Unicode sequence")


def is_clean(value: str) -> bool:
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in value)


def invalid(path: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"Validation error: {path} {problem}", reason="INVALID_FIELD")


def kind_of(value: Any) -> str:
    """What a JSON value is, for people."""
    names: dict[type, str] = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
        type(None): "null",
    }
    return names[type(value)]


def shown(text: str) -> str:
    """A name for a message: quoted, cut, with nothing in it that a terminal would act on."""
    cut = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
    return repr(cut)
