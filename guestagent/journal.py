"""What was asked of this guest and what came of it, so that a repeat is not carried out twice.

One small file for each command, replaced atomically and synced, named by the hash of the id
(ids come from outside). Holds no request, so no verifier; results hold no secret. Bounded: the
oldest ended commands go first. A caller that repeats a command after that many others have come
and gone has long lost its own deadline.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from trove_grpc.errors import UnavailableError
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as session_pb2
from trove_grpc.tls import write_atomically

LIMIT = 256


class Progress(enum.StrEnum):
    """How far a command got."""

    STARTED = "started"  # interrupted, unless it is running now
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One command."""

    command_id: str
    kind: str
    progress: Progress
    result: session_pb2.CommandResult | None = None


class Journal:
    """The commands of one guest. Blocking: a few milliseconds for each fsync."""

    def __init__(self, directory: Path, *, limit: int = LIMIT) -> None:
        self._directory = directory
        self._limit = limit

    def part(self, name: str) -> Journal:
        """A journal inside this one, with a limit of its own."""
        return Journal(self._directory / name, limit=self._limit)

    def find(self, command_id: str) -> Entry | None:
        try:
            fields = json.loads(self._path(command_id).read_bytes())
        except FileNotFoundError:
            return None
        result = fields.get("result")
        return Entry(
            command_id=command_id,
            kind=fields["kind"],
            progress=Progress(fields["progress"]),
            result=result
            and session_pb2.CommandResult.FromString(base64.b64decode(result.encode())),
        )

    def start(self, command_id: str, kind: str) -> None:
        """Record before the first effect."""
        self._write(Entry(command_id=command_id, kind=kind, progress=Progress.STARTED))
        self._prune()

    def finish(self, command_id: str, kind: str, result: session_pb2.CommandResult) -> None:
        """Record after the last effect, before the answer."""
        self._write(
            Entry(command_id=command_id, kind=kind, progress=Progress.FINISHED, result=result)
        )

    def _write(self, entry: Entry) -> None:
        fields = {
            "command_id": entry.command_id,
            "kind": entry.kind,
            "progress": entry.progress,
            "result": entry.result and base64.b64encode(entry.result.SerializeToString()).decode(),
        }
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path(entry.command_id), json.dumps(fields).encode(), mode=0o600)
        except OSError as error:
            raise UnavailableError(
                f"cannot write to the journal {self._directory}: {error.strerror}; see to the "
                "guest's disk, then repeat the command",
                reason="NOT_STORED",
            ) from error

    def _prune(self) -> None:
        files = sorted(self._directory.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in files[: max(0, len(files) - self._limit)]:
            path.unlink(missing_ok=True)

    def _path(self, command_id: str) -> Path:
        return self._directory / f"{hashlib.sha256(command_id.encode()).hexdigest()[:32]}.json"
