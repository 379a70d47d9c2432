"""One cloud's directory: configuration, data, logs, pid files, and what was decided once."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class HarnessError(RuntimeError):
    """The cloud cannot be had; the message quotes the log that says why."""


class State:
    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("etc", "run", "log", "data", "home", "tmp"):
            (self.root / name).mkdir(exist_ok=True)
        self._file = self.root / "facts.json"
        self._lock = threading.Lock()  # services are prepared side by side

    def fact(self, name: str, make: Callable[[], Any] | None = None) -> Any:
        """What was remembered under `name`; made and remembered when there is nothing yet."""
        with self._lock:
            facts = self._facts()
            if name not in facts and make is not None:
                facts[name] = make()
                self._write(facts)
            return facts.get(name)

    def remember(self, name: str, value: Any) -> None:
        with self._lock:
            self._write({**self._facts(), name: value})

    def secret(self, name: str) -> str:
        """A password of this directory alone."""
        found: str = self.fact(f"secret.{name}", lambda: secrets.token_hex(16))
        return found

    def once(self, name: str, work: Callable[[], None]) -> None:
        """Do `work` unless an earlier start finished it."""
        if not self.fact(f"done.{name}"):
            work()
            self.remember(f"done.{name}", value=True)

    def log(self, name: str) -> Path:
        return self.root / "log" / f"{name}.log"

    def tail(self, name: str) -> str:
        """The end of a log, for error messages."""
        log = self.log(name)
        return (
            "\n".join(log.read_text(errors="replace").splitlines()[-25:]) if log.exists() else ""
        )

    def write_ini(self, path: str, sections: Mapping[str, Mapping[str, object]]) -> Path:
        """Write a private configuration file below the directory."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for section, options in sections.items():
            lines.append(f"[{section}]")
            lines += [f"{name} = {value}" for name, value in options.items()]
            lines.append("")
        file.touch(mode=0o600)
        file.write_text("\n".join(lines))
        return file

    def _facts(self) -> dict[str, Any]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}

    def _write(self, facts: Mapping[str, Any]) -> None:
        temporary = self._file.with_suffix(".tmp")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(facts, indent=1, sort_keys=True))
        temporary.replace(self._file)
