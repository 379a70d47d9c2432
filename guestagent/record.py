"""What the engine of this guest is meant to be: survives the agent, the machine's reboot too."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from guestagent.engines import EngineSpec
from trove_grpc.errors import UnavailableError
from trove_grpc.tls import write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Written before an effect, so that a restart knows what was wanted."""

    spec: EngineSpec | None = None
    # A prepare has been carried out to its end.
    is_prepared: bool = False
    # Whether the engine should run; StopAction says no.
    is_wanted: bool = False
    # Whether the engine was last started with what `spec` says; not while a resize is under way.
    is_applied: bool = True
    # How often the agent has started the engine.
    start_count: int = 0
    # The tenant's parameters that wait for the next start.
    pending_restart: tuple[str, ...] = ()
    # Why the tenant's last settings were given up; empty while they are in force.
    reverted: str = ""


class RecordFile:
    """The record on disk, replaced atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Record:
        try:
            fields = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return Record()
        spec = fields.pop("spec")
        fields["pending_restart"] = tuple(fields.get("pending_restart", ()))
        if spec is not None:
            spec["listen_addresses"] = tuple(spec["listen_addresses"])
            fields["spec"] = EngineSpec(**spec)
        return Record(**fields)

    def store(self, record: Record) -> None:
        """Raises UnavailableError when the disk does not take it."""
        data = json.dumps(dataclasses.asdict(record)).encode()
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, data, mode=0o600)
        except OSError as error:
            raise UnavailableError(
                f"cannot record in {self._path} what the engine is meant to be: "
                f"{error.strerror}; see to the disk",
                reason="NOT_STORED",
            ) from error
