"""Where things are below the state directory, and who may see them.

lock ports.json processes.json   the supervisor's own
run/                             sockets (short path: a socket's has at most 107 bytes)
logs/<process>.log
runtime/<digest>/                Python packages for other users (root only)
<process>/                       config.toml, identity/, data: private to its user
operator/identity/               trovectl's own certificate
guests/<instance>/               guest.json agent.toml agent/ engine/
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from trove_grpc.errors import ConflictError, InvalidRequestError
from trovectl.children import OURSELVES, Account

_INSTANCE_ID = re.compile(r"\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.ASCII)
# What a guest's engine adds to run/: "/<13 characters>/engine/.s.PGSQL.65535.lock", and some.
_LONGEST_SOCKET_SUFFIX = 50
_SOCKET_LIMIT = 107


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one installation; `state` is absolute."""

    state: Path

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    @property
    def ports(self) -> Path:
        return self.state / "ports.json"

    @property
    def records(self) -> Path:
        return self.state / "processes.json"

    @property
    def operator(self) -> Path:
        return self.state / "operator" / "identity"

    @property
    def guests(self) -> Path:
        return self.state / "guests"

    @property
    def runtimes(self) -> Path:
        return self.state / "runtime"

    @property
    def run(self) -> Path:
        """In the state directory where a socket's path fits, else in a private short one."""
        preferred = self.state / "run"
        if len(str(preferred)) + _LONGEST_SOCKET_SUFFIX <= _SOCKET_LIMIT:
            return preferred
        digest = hashlib.sha256(str(self.state).encode()).hexdigest()[:10]
        if os.geteuid() == 0:
            return Path(f"/run/trove-{digest}")
        return Path(tempfile.gettempdir()) / f"trove-{os.geteuid()}-{digest}"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor" / "supervisor.sock"

    @property
    def operator_socket(self) -> Path:
        return self.run / "issuer" / "operator.sock"

    def process(self, name: str) -> Path:
        return self.state / name

    def log(self, name: str) -> Path:
        return self.state / "logs" / f"{name}.log"

    def guest(self, instance_id: str) -> Path:
        return self.guests / checked_id(instance_id)

    def guest_run(self, instance_id: str) -> Path:
        """48 bits of the id keep the path short."""
        return self.run / checked_id(instance_id)[:13]


def checked_id(instance_id: str) -> str:
    """The id, once it is sure to be a UUID: it becomes a path."""
    if not _INSTANCE_ID.match(instance_id):
        raise InvalidRequestError(f"{instance_id!r} is not an instance id")
    return instance_id


def check_reachable(state: Path) -> None:
    """Raise ConflictError when other users could not pass through to `state`."""
    for folder in state.parents:
        if folder.exists() and not folder.stat().st_mode & 0o001:
            raise ConflictError(
                f"{folder} is private, so the system users that run the processes cannot reach "
                f"{state}; choose another --state-dir, for example /var/lib/trove",
                reason="STATE_UNREACHABLE",
                subject=str(state),
            )


def make_directory(path: Path, *, mode: int, account: Account = OURSELVES) -> None:
    """Create or correct a directory; refuses a link or somebody else's in its place."""
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ConflictError(f"{path} is not a directory; move it away")
    owner = os.geteuid() if account.uid is None else account.uid
    if found.st_uid not in (owner, os.geteuid()):
        raise ConflictError(f"{path} belongs to uid {found.st_uid}, not {owner}; move it away")
    if account.uid is not None and account.gid is not None:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    path.chmod(mode)


def write_file(path: Path, data: bytes, *, mode: int, account: Account = OURSELVES) -> None:
    """Create or replace a file that belongs to `account`, also in a directory of its own.

    The owner is set through the handle before the name appears, and the new file must not exist:
    what the directory's user puts in our way is at worst an error.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        if account.uid is not None and account.gid is not None:
            os.fchown(file.fileno(), account.uid, account.gid)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def give_tree(path: Path, account: Account) -> None:
    """Hand a tree that only we could write so far to its user."""
    if account.uid is None or account.gid is None:
        return
    for folder, _, files, handle in os.fwalk(path, follow_symlinks=False):
        for name in files:
            os.chown(name, account.uid, account.gid, dir_fd=handle, follow_symlinks=False)
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it; absent is removed."""
    if path.exists():
        shutil.rmtree(path)
