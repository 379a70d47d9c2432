"""PostgreSQL or MariaDB instead of SQLite below the state directory, and whose password it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trove_grpc import databases
from trove_grpc.errors import InvalidRequestError

DEFAULT = "conductor"
_PREFIXES = {"conductor": "", "issuer": "", "taskmanager": "flow_"}
# MariaDB cannot hold the flow log: DBOS knows SQLite and PostgreSQL.
_BACKENDS = {
    "taskmanager": (databases.POSTGRESQL,),
    "conductor": (databases.POSTGRESQL, databases.MARIADB),
    "issuer": (databases.POSTGRESQL, databases.MARIADB),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDatabase:
    """Where one process keeps its state."""

    url: str
    password: str = field(default="", repr=False)  # empty: none is asked for

    def settings(self, process: str, password_file: Path) -> dict[str, str | Path]:
        prefix = _PREFIXES[process]
        found: dict[str, str | Path] = {f"{prefix}database_url": self.url}
        if self.password:
            found[f"{prefix}database_password_file"] = password_file
        return found


def parse(urls: Sequence[str], password_files: Sequence[str]) -> Mapping[str, StateDatabase]:
    """From `[PROCESS=]URL` and `[PROCESS=]FILE`, by process; the conductor where none is named."""
    by_process = dict(_split(url) for url in urls)
    files = dict(_split(file) for file in password_files)
    if extra := sorted(set(files) - set(by_process)):
        raise InvalidRequestError(f"--database-password-file {extra[0]}=… has no --database-url")
    for process, url in by_process.items():
        databases.check(f"--database-url of the {process}", url, backends=_BACKENDS[process])
    places = [url.split("://")[-1] for url in by_process.values()]
    if len(set(places)) != len(places):
        raise InvalidRequestError("--database-url: each process needs a database of its own")
    return {
        process: StateDatabase(
            url=url,
            password=databases.read_password(Path(files[process])) if process in files else "",
        )
        for process, url in by_process.items()
    }


def _split(text: str) -> tuple[str, str]:
    process, equals, value = text.partition("=")
    return (process, value) if equals and process in _PREFIXES else (DEFAULT, text)
