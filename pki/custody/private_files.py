"""Files that only this process's user can have read or replaced."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from pki.custody.contract import CustodyError
from trove_grpc.errors import ConflictError, NotFoundError

_OTHERS = 0o077
_WRITABLE_BY_OTHERS = 0o022
# Far above a P-256 key, a passphrase or a CA certificate; a file this long is something else.
_MAX_FILE_BYTES = 16 * 1024


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


def read_private_file(path: Path, *, reason: str = "KEY_MISSING") -> bytes:
    """Read a small file that only we can read; the checks are on the file that was opened.

    Raises NotFoundError with `reason` when there is none, CustodyError when others can reach it.
    """
    check_directory(path.parent)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist", reason=reason) from error
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


def create_private_file(path: Path, data: bytes) -> None:
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
        raise ConflictError(f"{path} exists already; it is written once") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    _sync_directory(path.parent)


def remove_private_file(path: Path) -> None:
    """Remove a file, on the disk too; nothing happens when there is none."""
    check_directory(path.parent)
    path.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
