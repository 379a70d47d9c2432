"""Audit records as `trove-pki audit export` wrote them, and what they say is still refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pki.issuer.checkpoints import SealedError, Statement
from pki.models import AuditRecord
from pki.store import audit, denials
from trove_grpc.errors import InvalidRequestError

_KINDS = frozenset(
    {denials.SERIAL, denials.KEY, denials.INSTANCE, denials.TENANT, denials.GENERATION}
)
_TEXTS = ("time", "actor", "action", "subject", "previous_hash", "hash")


@dataclass(frozen=True, slots=True)
class Denied:
    """One refusal that the audit remembers."""

    kind: str
    value: str
    reason: str


def read(files: Sequence[Path], checkpoints: Iterable[Statement]) -> list[AuditRecord]:
    """The records of all files, in order, each once.

    Raises SealedError when one was edited: its hash is not its own, it does not follow the one
    before it, or it is not what a checkpoint signed.
    """
    found: dict[int, AuditRecord] = {}
    for path in files:
        for number, record in _lines(path):
            if record.hash != audit.record_hash(record):
                raise SealedError(f"line {number} of {path} was edited: its hash is not its own")
            known = found.setdefault(record.sequence, record)
            if known.hash != record.hash:
                raise SealedError(
                    f"line {number} of {path} contradicts another file about record "
                    f"{record.sequence}; leave out the one that is not of this PKI"
                )
    ordered = [found[sequence] for sequence in sorted(found)]
    for before, after in itertools.pairwise(ordered):
        if after.sequence == before.sequence + 1 and after.previous_hash != before.hash:
            raise SealedError(f"exported record {after.sequence} does not follow the one before")
    # Numbers begin anew in an epoch: a record is bound by the checkpoints of its number alone.
    signed: dict[int, set[str]] = {}
    for statement in checkpoints:
        signed.setdefault(statement.sequence, set()).add(statement.hash)
    for record in ordered:
        if record.hash not in signed.get(record.sequence, {record.hash}):
            raise SealedError(
                f"exported record {record.sequence} is not the one that its checkpoint signed: it "
                "was edited, or is of an earlier epoch and to be left out"
            )
    return ordered


def denied(records: Iterable[AuditRecord]) -> list[Denied]:
    """What the records say is refused, in their order.

    Denials that nobody lifted, instances whose identity ended, certificates that have a successor
    which was used.
    """
    ledger = _Ledger()
    for record in records:
        ledger.take(record, _detail(record))
    return list(ledger.denied.values())


def quarantined(records: Iterable[AuditRecord]) -> dict[str, str]:
    """Instances whose quarantine nobody ended, and why each is in it."""
    reasons: dict[str, str] = {}
    enrolled: dict[str, str] = {}
    for record in records:
        detail = _detail(record)
        match record.action:
            case "quarantine":
                reasons.setdefault(record.subject, str(detail.get("why", "")) or "not said")
            case "resolve-clone" if detail.get("resolution") == "REISSUE":
                pass  # the new token's use ends it
            case "resolve-clone" | "retire-subject":
                reasons.pop(record.subject, None)
            case "enrol-guest":
                # A lost reply that was asked for again used no new token.
                if enrolled.get(record.subject) != str(detail["serial"]):
                    reasons.pop(record.subject, None)
                enrolled[record.subject] = str(detail["serial"])
    return reasons


@dataclass(slots=True)
class _Ledger:
    denied: dict[tuple[str, str], Denied] = field(default_factory=dict)
    # Serials of each instance, and what each certificate replaced.
    _serials: dict[str, list[str]] = field(default_factory=dict)
    _replaced: dict[str, str] = field(default_factory=dict)

    def take(self, record: AuditRecord, detail: Mapping[str, Any]) -> None:
        match record.action:
            case "create-denial" | "lift-denial":
                self._take_denial(record, str(detail.get("reason", "")))
            case "taint-authority":
                self._deny(denials.GENERATION, record.subject, str(detail.get("reason", "")))
            case "retire-subject":
                self._deny(denials.INSTANCE, record.subject, str(detail.get("reason", "")))
            case "resolve-clone" if detail.get("resolution") == "REISSUE":
                self._end_all(record.subject, "reissued: its key may exist twice")
            case "enrol-guest":
                # Older records have one for each time that a lost reply was asked for again.
                if str(detail["serial"]) not in self._serials.get(record.subject, ()):
                    self._end_all(record.subject, "enrolled anew")
                    self._serials[record.subject] = [str(detail["serial"])]
            case "adopt-certificate":
                self._serials.setdefault(record.subject, []).append(str(detail["serial"]))
            case "renew-guest" | "recover-guest":
                self._renewed(record.subject, str(detail["serial"]), str(detail["replaces"]))

    def _take_denial(self, record: AuditRecord, reason: str) -> None:
        kind, _, value = record.subject.partition(" ")
        if kind.upper() not in _KINDS:
            return
        if record.action == "create-denial":
            self._deny(kind.upper(), value, reason)
        elif self.denied.pop((kind.upper(), value), None) is not None:
            # What a denied instance held stays ended without its denial.
            self._end_all(value, "ended while its instance was denied")

    def _renewed(self, instance_id: str, serial: str, replaces: str) -> None:
        # Who renews with a certificate has used it, which ended the one before.
        if replaces in self._replaced:
            self._deny(denials.SERIAL, self._replaced[replaces], "superseded by renewal")
        self._replaced[serial] = replaces
        self._serials.setdefault(instance_id, []).append(serial)

    def _end_all(self, instance_id: str, reason: str) -> None:
        for serial in self._serials.get(instance_id, ()):
            self._deny(denials.SERIAL, serial, reason)

    def _deny(self, kind: str, value: str, reason: str) -> None:
        self.denied.setdefault((kind, value), Denied(kind, value, reason or "not said"))


def _lines(path: Path) -> Iterator[tuple[int, AuditRecord]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InvalidRequestError(f"{path} does not exist") from error
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            detail = fields["detail"]
            yield (
                number,
                AuditRecord(
                    sequence=int(fields["sequence"]),
                    detail=detail if isinstance(detail, str) else _as_hashed(detail),
                    **{name: str(fields[name]) for name in _TEXTS},
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise SealedError(f"line {number} of {path} is no audit record") from error


def _as_hashed(detail: Mapping[str, Any]) -> str:
    return json.dumps(dict(detail), sort_keys=True)


def _detail(record: AuditRecord) -> Mapping[str, Any]:
    detail: dict[str, Any] = json.loads(record.detail)
    return detail
