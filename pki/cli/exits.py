"""How a command ends: exit codes that scripts may rely on.

0  done; for questions: answered
1  failed
2  wrong usage, or a request the issuer calls invalid
3  nothing to do
4  refused by a safety gate: nothing was changed
5  done in part, or given up waiting: what is left was named
6  the issuer cannot be reached
7  integrity: a key, the audit or the custody is not what it must be
"""

from __future__ import annotations

import enum

from trove_grpc.errors import (
    AlreadyExistsError,
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    TroveError,
    UnavailableError,
)


class Exit(enum.IntEnum):
    """Exit codes; stable."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOTHING_TO_DO = 3
    REFUSED = 4
    PARTIAL = 5
    UNREACHABLE = 6
    INTEGRITY = 7


# Said by `custody` and by the identity on disk, not by a peer.
_INTEGRITY_REASONS = frozenset(
    {
        "CUSTODY",
        "SEALED",
        "CUSTODY_AMBIGUOUS",
        "CUSTODY_DAMAGED",
        "CUSTODY_FOREIGN",
        "CUSTODY_GONE",
        "CUSTODY_NO_PAYLOAD",
        "CUSTODY_OTHER_KEK",
        "CUSTODY_OTHER_KEY",
    }
)
_LOCAL_REASONS = frozenset({"NO_IDENTITY"})
_NOTHING_TO_DO_REASONS = frozenset({"NOTHING_TO_REBUILD"})


class CommandError(Exception):
    """A command ends here: why, for people, and with which code."""

    def __init__(self, status: Exit, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def status_of(error: TroveError) -> Exit:
    """The exit code of an error of the issuer or of what lies on this host."""
    if error.reason in _INTEGRITY_REASONS:
        return Exit.INTEGRITY
    if error.reason in _NOTHING_TO_DO_REASONS:
        return Exit.NOTHING_TO_DO
    if error.reason in _LOCAL_REASONS:
        return Exit.ERROR
    if isinstance(error, (UnavailableError, DeadlineError)):
        return Exit.UNREACHABLE
    if isinstance(error, InvalidRequestError):
        return Exit.USAGE
    if isinstance(error, ConflictError) and not isinstance(error, AlreadyExistsError):
        return Exit.REFUSED
    return Exit.ERROR
