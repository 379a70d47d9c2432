"""Whom each process runs as.

As root: system users from a fixed pool, one for each control-plane process and two for each
local guest, created at first use. The agent's key is unreadable to the engine's user, and no
process of ours keeps root but the supervisor. Otherwise: ourselves.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from typing import Protocol

from trove_grpc.errors import ConflictError, InvalidRequestError, UnavailableError
from trovectl.children import Account

GUEST_POOL = 64


class Accounts(Protocol):
    """Who runs what."""

    @property
    def are_separate(self) -> bool:
        """Whether processes run as different users."""

    def service(self, name: str) -> Account: ...

    def guest(self, index: int) -> tuple[Account, Account]:
        """Agent's and engine's users of the guest with this place in the pool."""


class OneUser:
    """Everything runs as ourselves."""

    are_separate = False

    def service(self, name: str) -> Account:
        return Account()

    def guest(self, index: int) -> tuple[Account, Account]:
        return Account(), Account()


class SystemUsers:
    """The pool of system users."""

    are_separate = True

    def service(self, name: str) -> Account:
        return ensure_user(f"trove-{name}")

    def guest(self, index: int) -> tuple[Account, Account]:
        return ensure_user(f"trove-agent-{index:02}"), ensure_user(f"trove-engine-{index:02}")


def choose(users: str) -> Accounts:
    """The pool as root, ourselves otherwise; `users` is "auto" or "single"."""
    if os.geteuid() != 0:
        return OneUser()
    if users == "single":
        raise InvalidRequestError(
            "--users single does not work as root: PostgreSQL refuses to run as root; "
            "leave it out, or run as an ordinary user"
        )
    return SystemUsers()


def ensure_user(name: str) -> Account:
    """The system user of this name, created when there is none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        _create(name)
        entry = pwd.getpwnam(name)
    if entry.pw_uid == 0:
        raise ConflictError(f"user {name} has uid 0; remove or rename it")
    return Account(name, entry.pw_uid, entry.pw_gid)


def _create(name: str) -> None:
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin")
    if useradd is None:
        raise UnavailableError(f"cannot create user {name}: there is no useradd (package passwd)")
    done = subprocess.run(
        [
            *(useradd, "--system", "--user-group", "--no-create-home"),
            *("--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", name),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # 9: it exists by now; somebody else made it.
    if done.returncode not in (0, 9):
        raise UnavailableError(f"cannot create user {name}: {done.stderr.strip()}")
