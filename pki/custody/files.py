"""Where CA keys live: encrypted files here; a vault is another class with the same three verbs."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trove_grpc.errors import ConflictError, NotFoundError, TroveError

_NAME = re.compile(r"\A[a-z][a-z-]{0,31}-g[0-9]{1,6}\Z")
_OTHERS = 0o077
_WRITABLE_BY_OTHERS = 0o022
_PASSPHRASE_BYTES = 32
# Far above a P-256 key or a passphrase; a file this long is something else.
_MAX_FILE_BYTES = 16 * 1024


class CustodyError(TroveError):
    """A key cannot be kept or read safely; the message says which file and what to do."""

    reason = "CUSTODY"


class Custody(Protocol):
    """Keeps the private key of each authority generation. Written once, never replaced."""

    def exists(self, name: str) -> bool: ...

    def load(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Read a key; NotFoundError when there is none, CustodyError when it cannot be trusted."""

    def store(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Keep a new key for good; ConflictError when the name is taken."""


class FileCustody:
    """One encrypted PKCS#8 file for each key, in a directory of the issuer's own user."""

    def __init__(self, directory: Path, passphrase_file: Path) -> None:
        self._directory = directory
        self._passphrase_file = passphrase_file

    def prepare(self) -> None:
        """Create the directory and, where no key needs an older one, the passphrase."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_directory(self._directory)
        if self._passphrase_file.exists() or self._passphrase_file.is_symlink():
            return
        if any(self._directory.glob("*.key")):
            raise CustodyError(
                f"{self._passphrase_file} is missing, and {self._directory} holds keys encrypted "
                "with it; restore that file from your backup"
            )
        self._passphrase_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_directory(self._passphrase_file.parent)
        _create(
            self._passphrase_file, secrets.token_urlsafe(_PASSPHRASE_BYTES).encode("ascii") + b"\n"
        )

    def exists(self, name: str) -> bool:
        path = self._path(name)
        return path.exists() or path.is_symlink()

    def load(self, name: str) -> ec.EllipticCurvePrivateKey:
        path = self._path(name)
        data = read_private_file(path)
        try:
            key = serialization.load_pem_private_key(data, password=self._passphrase())
        except (ValueError, TypeError) as error:
            raise CustodyError(
                f"cannot decrypt {path}: it is damaged, not encrypted, or "
                f"{self._passphrase_file} is not its passphrase; restore both from one backup"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CustodyError(f"{path} holds another kind of key; restore it from your backup")
        return key

    def store(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        check_directory(self._directory)
        data = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(self._passphrase()),
        )
        _create(self._path(name), data)

    def _passphrase(self) -> bytes:
        passphrase = read_private_file(self._passphrase_file).strip()
        if not passphrase:
            raise CustodyError(f"{self._passphrase_file} is empty; restore it from your backup")
        return passphrase

    def _path(self, name: str) -> Path:
        if not _NAME.match(name):
            raise CustodyError(f"{name!r} is no name for a key")
        return self._directory / f"{name}.key"


def check_directory(path: Path) -> None:
    """Demand a directory only we can enter, in one that nobody else can rename it in.

    Raises CustodyError that says which bit of which path is wrong.
    """
    try:
        own, parent = path.lstat(), path.absolute().parent.stat()
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist; run `trove-pki init`") from error
    if not stat.S_ISDIR(own.st_mode):
        raise CustodyError(f"{path} is not a directory")
    if own.st_uid != os.geteuid():
        raise CustodyError(
            f"{path} belongs to uid {own.st_uid}, this process runs as uid {os.geteuid()}"
        )
    if own.st_mode & _OTHERS:
        raise CustodyError(
            f"{path} is open to others (mode {stat.S_IMODE(own.st_mode):04o}); chmod 0700 it"
        )
    sticky = parent.st_mode & stat.S_ISVTX
    if parent.st_mode & _WRITABLE_BY_OTHERS and not sticky:
        raise CustodyError(
            f"{path.absolute().parent} lets others rename {path.name} "
            f"(mode {stat.S_IMODE(parent.st_mode):04o}); chmod go-w it"
        )
    if parent.st_uid not in (0, os.geteuid()):
        raise CustodyError(
            f"{path.absolute().parent} belongs to uid {parent.st_uid}, "
            f"who could rename {path.name}; chown it"
        )


def read_private_file(path: Path) -> bytes:
    """Read a small file that only we can read; the checks are on the file that was opened.

    Raises NotFoundError when there is none, CustodyError when others can reach it.
    """
    check_directory(path.parent)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist", reason="KEY_MISSING") from error
    except OSError as error:
        problem = (
            "is a symbolic link" if path.is_symlink() else f"cannot be read: {error.strerror}"
        )
        raise CustodyError(f"{path} {problem}") from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise CustodyError(f"{path} is not a regular file")
        if status.st_uid != os.geteuid():
            raise CustodyError(
                f"{path} belongs to uid {status.st_uid}, this process runs as uid {os.geteuid()}"
            )
        if status.st_mode & _OTHERS:
            raise CustodyError(
                f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}); "
                "chmod 0600 it, and replace the key if anybody may have read it"
            )
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise CustodyError(f"{path} is longer than any key")
    return data


def _create(path: Path, data: bytes) -> None:
    """Write a new private file, whole or not at all; never replaces one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, refuses to replace what is there.
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError as error:
        raise ConflictError(f"{path} exists already; a key is written once") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
