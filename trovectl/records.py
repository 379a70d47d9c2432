"""What runs, on disk: so that a new `up` recognises what a killed one left behind."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from trove_grpc.errors import UnavailableError
from trove_grpc.tls import write_atomically
from trovectl.procfs import ProcessId


@dataclass(frozen=True, slots=True)
class Record:
    """One started process and what it was started as."""

    process: ProcessId
    # Of command, user and directory: adopted only by whoever would start the same.
    digest: str


class Records:
    """processes.json: name -> record. One writer, the supervisor; every change is on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, Record] = {}

    def load(self) -> None:
        try:
            content = json.loads(self._path.read_text())
            self._records = {
                name: Record(ProcessId(**entry["process"]), entry["digest"])
                for name, entry in content.items()
            }
        except FileNotFoundError:
            self._records = {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnavailableError(
                f"{self._path} is not readable as process records ({error}); "
                "move it away: what still runs is then found by its directory"
            ) from error

    def get(self, name: str) -> Record | None:
        return self._records.get(name)

    def names(self) -> list[str]:
        return list(self._records)

    def set(self, name: str, record: Record) -> None:
        self._records[name] = record
        self._save()

    def drop(self, name: str) -> None:
        if self._records.pop(name, None) is not None:
            self._save()

    def _save(self) -> None:
        content = {name: asdict(record) for name, record in self._records.items()}
        write_atomically(self._path, json.dumps(content, indent=1).encode(), mode=0o600)
