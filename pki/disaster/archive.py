"""An encrypted file of JSON lines: AES-256-GCM in chunks, the key by scrypt from the passphrase.

    {"magic": "trove-pki-backup", "version": 1, "salt": …} and a line end
    <length, 4 bytes><ciphertext and tag> …

The nonce counts chunks and marks the last one, so that none can be cut off, moved or repeated;
the first line is bound to each. The passphrase is custody's own: whoever can decrypt the archive
could decrypt the keys in it, and whoever has lost it has lost them too.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pki.custody import CustodyError

_MAGIC = "trove-pki-backup"
_VERSION = 1
_CHUNK = 1 << 20
_TAG = 16
_MAX_HEADER = 1024
# 32 MiB and about 0.1 s for each guess.
_COST = {"n": 1 << 15, "r": 8, "p": 1}


class ArchiveWriter:
    """Writes lines; the file has its name only once it is whole. Never replaces one."""

    def __init__(self, path: Path, passphrase: bytes) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._passphrase = passphrase

    def __enter__(self) -> Self:
        if self._path.exists():
            raise CustodyError(f"{self._path} exists already; a backup replaces none")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._temporary.unlink(missing_ok=True)
        self._file = os.fdopen(os.open(self._temporary, flags, 0o600), "wb")
        salt = os.urandom(16)
        header = {
            "magic": _MAGIC,
            "version": _VERSION,
            "salt": base64.b64encode(salt).decode("ascii"),
        }
        line = json.dumps(header, sort_keys=True).encode() + b"\n"
        self._file.write(line)
        self._sealer = _Sealer(self._file, _key(self._passphrase, salt), line)
        self._lines = gzip.GzipFile(fileobj=self._sealer, mode="wb", mtime=0)
        return self

    def write(self, line: Mapping[str, Any]) -> None:
        self._lines.write(json.dumps(line).encode() + b"\n")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._lines.close()
                self._sealer.finish()
                self._file.flush()
                os.fsync(self._file.fileno())
                # A link, unlike a rename, refuses to replace what is there.
                os.link(self._temporary, self._path, follow_symlinks=False)
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)


def read_archive(path: Path, passphrase: bytes) -> Iterator[dict[str, Any]]:
    """The lines of an archive, each authentic.

    Raises CustodyError when the file is none, is damaged or was made with another passphrase.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(_MAX_HEADER)
            opener = _Opener(file, _key(passphrase, _salt(path, line)), line)
            with gzip.GzipFile(fileobj=io.BufferedReader(opener), mode="rb") as lines:
                for each in lines:
                    yield json.loads(each)
    except FileNotFoundError as error:
        raise CustodyError(f"{path} does not exist") from error
    except (InvalidTag, EOFError, gzip.BadGzipFile) as error:
        raise CustodyError(
            f"{path} cannot be decrypted: it is damaged or cut off, or the passphrase file is not "
            "the one it was made with"
        ) from error


def _salt(path: Path, line: bytes) -> bytes:
    try:
        header = json.loads(line)
        if header["magic"] != _MAGIC or header["version"] != _VERSION:
            raise ValueError("other magic or version")
        return base64.b64decode(header["salt"], validate=True)
    except (ValueError, KeyError, TypeError) as error:
        raise CustodyError(f"{path} is no backup of version {_VERSION}") from error


def _key(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, **_COST).derive(passphrase)


def _nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])


class _Sealer(io.RawIOBase):
    """Encrypts what is written, a chunk at a time."""

    def __init__(self, file: BinaryIO, key: bytes, header: bytes) -> None:
        self._file = file
        self._cipher = AESGCM(key)
        self._header = header
        self._buffer = bytearray()
        self._number = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._buffer += data
        while len(self._buffer) > _CHUNK:
            self._seal(bytes(self._buffer[:_CHUNK]), is_last=False)
            del self._buffer[:_CHUNK]
        return len(data)

    def finish(self) -> None:
        self._seal(bytes(self._buffer), is_last=True)

    def _seal(self, chunk: bytes, *, is_last: bool) -> None:
        nonce = _nonce(self._number, is_last=is_last)
        sealed = self._cipher.encrypt(nonce, chunk, self._header)
        self._file.write(len(sealed).to_bytes(4, "big") + sealed)
        self._number += 1


class _Opener(io.RawIOBase):
    """Decrypts what is read; raises InvalidTag or EOFError."""

    def __init__(self, file: BinaryIO, key: bytes, header: bytes) -> None:
        self._file = file
        self._cipher = AESGCM(key)
        self._header = header
        self._buffer = b""
        self._number = 0
        self._is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._buffer and not self._is_over:
            self._open_next()
        size = min(len(buffer), len(self._buffer))
        buffer[:size] = self._buffer[:size]
        self._buffer = self._buffer[size:]
        return size

    def _open_next(self) -> None:
        length = int.from_bytes(self._file.read(4), "big")
        sealed = self._file.read(length) if _TAG <= length <= _CHUNK + _TAG else b""
        if len(sealed) != length or not length:
            raise EOFError
        # What follows decides which nonce it must have been sealed with.
        self._is_over = not self._file.peek(1)  # type: ignore[attr-defined]
        nonce = _nonce(self._number, is_last=self._is_over)
        self._buffer = self._cipher.decrypt(nonce, sealed, self._header)
        self._number += 1
