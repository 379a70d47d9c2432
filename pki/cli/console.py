"""What a command says: tables for people, JSON or YAML for programs, notes beside them.

Documents go to standard output and nothing else does: notes, plans and progress go to standard
error, so that a pipe carries the document alone.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO, TypeAlias

from pki.cli import times

Row: TypeAlias = Mapping[str, Any]
FORMATS = ("table", "json", "yaml")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, and its cell for a row (by default the key of that name)."""

    title: str
    cell: Callable[[Row], Any] | str

    def text(self, row: Row) -> str:
        value = row[self.cell] if isinstance(self.cell, str) else self.cell(row)
        return _text(value)


class Console:
    """Where one command writes and asks."""

    def __init__(self, *, out: TextIO, notes: TextIO, source: TextIO, form: str = "table") -> None:
        self._out = out
        self._notes = notes
        self._source = source
        self.form = form

    @property
    def is_for_people(self) -> bool:
        return self.form == "table"

    @property
    def is_interactive(self) -> bool:
        """Whether somebody can be asked."""
        return self._source.isatty() and self._notes.isatty()

    @property
    def is_live(self) -> bool:
        """Whether a line can be written over."""
        return self._notes.isatty()

    def show(
        self,
        rows: Sequence[Row],
        columns: Sequence[Column] = (),
        *,
        empty: str = "nothing",
        after: Iterable[str] = (),
    ) -> None:
        """Show a list of objects; `columns` and `after` (lines below) are for people alone."""
        if not self.is_for_people:
            self.document(rows)
            return
        if rows:
            self.table(rows, columns)
        else:
            self.line(empty)
        for line in after:
            self.line(line)

    def document(self, rows: Sequence[Row]) -> None:
        """Write the rows in the format that was asked for, not as a table."""
        values = [_plain(row) for row in rows]
        if self.form == "yaml":
            # Only here: `init` runs on hosts that carry no YAML.
            import yaml  # noqa: PLC0415

            yaml.safe_dump(values, self._out, sort_keys=False, allow_unicode=True)
        else:
            self.line(json.dumps(values, indent=2, ensure_ascii=False))

    def table(self, rows: Sequence[Row], columns: Sequence[Column] = ()) -> None:
        columns = columns or [Column(key.upper(), key) for key in rows[0]]
        cells = [[column.title for column in columns]]
        cells += [[column.text(row) for column in columns] for row in rows]
        widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
        for line in cells:
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self.line("  ".join(padded).rstrip())

    def facts(self, row: Row) -> None:
        """One object, a line for each of its values."""
        width = max(len(key) for key in row)
        for key, value in row.items():
            self.line(f"{key.replace('_', ' '):{width}}  {_text(value)}")

    def line(self, text: str = "") -> None:
        print(text, file=self._out)

    def raw(self, text: str) -> None:
        """Something that is a document by itself: PEM, a script."""
        self._out.write(text)

    def note(self, text: str) -> None:
        print(text, file=self._notes, flush=True)

    def over(self, text: str) -> None:
        """Write over the last such line; for a terminal."""
        print(f"\r\x1b[K{text}", end="", file=self._notes, flush=True)

    def ask(self, question: str) -> str:
        print(question, end="", file=self._notes, flush=True)
        return self._source.readline().strip()


def counted(count: int, noun: str) -> str:
    """`1 finding`, `2 findings`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dt.datetime):
        return times.moment(value)
    if isinstance(value, dt.timedelta):
        return times.span(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(each) for each in value) or "-"
    # A name that somebody else chose must not move the cursor.
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _plain(value: Any) -> Any:
    """As JSON and YAML have it: times by RFC 3339, spans in seconds."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, dt.datetime):
        return times.rfc3339(value)
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    return value
