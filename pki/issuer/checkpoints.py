"""Signed checkpoints of the audit chain, and the file outside of the database that keeps them.

    {"create_time": …, "epoch": 1, "hash": …, "sequence": 41, "trust_domain": …, "signature": …}

One JSON object a line; the signature is ECDSA with SHA-256, base64 of DER, over the canonical
JSON of the other fields. The public key lies beside the file, so that anybody can verify it.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime as dt
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pki.models import Checkpoint
from trove_grpc.errors import ConflictError
from trove_grpc.tls import write_atomically

_ALGORITHM = ec.ECDSA(hashes.SHA256())
_FIELDS = frozenset({"create_time", "epoch", "hash", "sequence", "trust_domain", "signature"})


class SealedError(ConflictError):
    """What is here contradicts what was signed before; nothing is served until a person acts."""

    reason = "SEALED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The record of this number has this hash, in this epoch of this trust domain."""

    sequence: int
    hash: str
    create_time: str  # ISO 8601 with microseconds, UTC: as signed
    trust_domain: str
    epoch: int
    signature: bytes = b""

    def canonical(self) -> bytes:
        """What is signed."""
        return json.dumps(self._signed(), sort_keys=True, separators=(",", ":")).encode()

    def line(self) -> str:
        """As exported, without the line's end."""
        signature = base64.b64encode(self.signature).decode("ascii")
        return json.dumps({**self._signed(), "signature": signature}, sort_keys=True)

    def row(self) -> Checkpoint:
        return Checkpoint(
            sequence=self.sequence,
            hash=self.hash,
            create_time=self.create_time,
            epoch=self.epoch,
            signature=self.signature,
        )

    @property
    def time(self) -> dt.datetime:
        return dt.datetime.fromisoformat(self.create_time)

    @classmethod
    def from_row(cls, row: Checkpoint, trust_domain: str) -> Self:
        return cls(
            sequence=row.sequence,
            hash=row.hash,
            create_time=row.create_time,
            trust_domain=trust_domain,
            epoch=row.epoch,
            signature=row.signature,
        )

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Raises ValueError when the line is none of ours."""
        fields = json.loads(line)
        if not isinstance(fields, dict) or fields.keys() != _FIELDS:
            raise ValueError("other fields than a checkpoint's")
        numbers = (fields["sequence"], fields["epoch"])
        texts = (fields["hash"], fields["create_time"], fields["trust_domain"])
        if not all(type(value) is int for value in numbers) or not all(
            isinstance(value, str) for value in texts
        ):
            raise ValueError("fields of other types than a checkpoint's")
        try:
            signature = base64.b64decode(fields.pop("signature"), validate=True)
        except (binascii.Error, TypeError) as error:
            raise ValueError("the signature is not base64") from error
        return cls(**fields, signature=signature)

    def _signed(self) -> dict[str, str | int]:
        return {
            "create_time": self.create_time,
            "epoch": self.epoch,
            "hash": self.hash,
            "sequence": self.sequence,
            "trust_domain": self.trust_domain,
        }


@dataclass(frozen=True, slots=True)
class AuditKey:
    """Signs checkpoints and nothing else. `repr` shows no key."""

    key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return "AuditKey()"

    def sign(
        self, *, sequence: int, row_hash: str, trust_domain: str, epoch: int, now: dt.datetime
    ) -> Statement:
        unsigned = Statement(
            sequence=sequence,
            hash=row_hash,
            create_time=now.astimezone(dt.UTC).isoformat(timespec="microseconds"),
            trust_domain=trust_domain,
            epoch=epoch,
        )
        signature = self.key.sign(unsigned.canonical(), _ALGORITHM)
        return dataclasses.replace(unsigned, signature=signature)

    @property
    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def is_signed_by(statement: Statement, public_key: ec.EllipticCurvePublicKey) -> bool:
    try:
        public_key.verify(statement.signature, statement.canonical(), _ALGORITHM)
    except InvalidSignature:
        return False
    return True


class CheckpointFile:
    """The exported checkpoints; lines are only ever added. Several processes may add."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def public_key_path(self) -> Path:
        return self.path.with_name(f"{self.path.stem}.pub.pem")

    def read(self) -> list[Statement]:
        """All checkpoints, in order of export; none when there is no file.

        A last line that a power cut left unfinished is passed over: its checkpoint was not yet
        one. Raises SealedError for a line that is damaged otherwise.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        *lines, _torn = data.split(b"\n")
        found = []
        for number, line in enumerate(lines, start=1):
            try:
                found.append(Statement.from_line(line.decode()))
            except ValueError as error:
                raise SealedError(
                    f"line {number} of {self.path} is no checkpoint ({error}): the file was "
                    "edited or damaged; put back a copy of it (each line is also in the log)"
                ) from error
        return found

    def verified(
        self, public_key: ec.EllipticCurvePublicKey, *, newest: int = 0
    ) -> list[Statement]:
        """All checkpoints, the signatures of the newest ones (0: of all) verified.

        Raises SealedError when one is not by our audit key.
        """
        found = self.read()
        for statement in found[-newest:]:
            if not is_signed_by(statement, public_key):
                raise SealedError(
                    f"checkpoint {statement.sequence} of epoch {statement.epoch} in {self.path} "
                    "is not signed by the audit key: the file was edited, or belongs to another "
                    "PKI; put back a copy of it"
                )
        return found

    def append(self, statement: Statement) -> None:
        """Add a line; it is on the disk when this returns."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not self.path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_APPEND
        with os.fdopen(os.open(self.path, flags, 0o644), "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _cut_torn_line(file.fileno())
            file.write(statement.line().encode() + b"\n")
            os.fsync(file.fileno())
        if is_new:
            _sync_directory(self.path.parent)

    def export_key(self, public_pem: bytes) -> None:
        """Put the public key beside the file; raises SealedError when another one lies there."""
        try:
            known = self.public_key_path.read_bytes()
        except FileNotFoundError:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self.public_key_path, public_pem, mode=0o644)
            return
        if known != public_pem:
            raise SealedError(
                f"{self.public_key_path} is not the public half of the audit key in custody: one "
                "of them was replaced; restore both from one backup"
            )


def _cut_torn_line(handle: int) -> None:
    size = os.fstat(handle).st_size
    end = size
    while end and os.pread(handle, 1, end - 1) != b"\n":
        end -= 1
    if end != size:
        os.ftruncate(handle, end)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
