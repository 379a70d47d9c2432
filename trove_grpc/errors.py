"""One error vocabulary: raised in Python, carried by gRPC (google.rpc.ErrorInfo), shown by REST.

    TroveError                      INTERNAL
    ├── InvalidRequestError         INVALID_ARGUMENT     the caller must change the request
    ├── UnauthenticatedError        UNAUTHENTICATED      who?
    ├── PermissionDeniedError       PERMISSION_DENIED    may not
    ├── NotFoundError               NOT_FOUND            absent, or not yours to know
    ├── ConflictError               FAILED_PRECONDITION  the state forbids it
    │   └── AlreadyExistsError      ALREADY_EXISTS       the name or key is taken
    ├── StaleError                  ABORTED              lost a race; read again, retry
    │   └── SessionMovedError       ABORTED              the session is elsewhere; look it up
    ├── QuotaExceededError          RESOURCE_EXHAUSTED   a limit of the tenant
    ├── OverloadedError             RESOURCE_EXHAUSTED   a queue of ours is full; retry later
    ├── UnsupportedError            UNIMPLEMENTED        this engine or driver cannot
    ├── UnavailableError            UNAVAILABLE          may be retried if idempotent
    └── DeadlineError               DEADLINE_EXCEEDED    no answer in time; may have happened

A subclass exists only where a caller acts differently on it. `reason` is the stable,
machine-read name (UPPER_SNAKE, AIP-193); a raise may narrow it: NotFoundError("…",
reason="INSTANCE_NOT_FOUND"). REST codes live in gateway/rest/problems.py alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import grpc
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "trove"
_STATUS_KEY = "grpc-status-details-bin"


class TroveError(Exception):
    """Base of every error that may cross a process boundary.

    `message` is for people: what failed, on what, what to do next; never a secret.
    `subject` names the thing it is about. `retry_after` is in seconds.
    """

    reason: str = "INTERNAL"
    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        subject: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.subject = subject
        self.retry_after = retry_after
        if reason:
            self.reason = reason


class InvalidRequestError(TroveError):
    """The caller must change the request."""

    reason = "INVALID_REQUEST"
    status = grpc.StatusCode.INVALID_ARGUMENT


class UnauthenticatedError(TroveError):
    """The caller's identity is missing, unknown, expired or denied."""

    reason = "UNAUTHENTICATED"
    status = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(TroveError):
    """The caller is known and may not do this."""

    reason = "PERMISSION_DENIED"
    status = grpc.StatusCode.PERMISSION_DENIED


class NotFoundError(TroveError):
    """The named resource does not exist, or the caller may not know that it does."""

    reason = "NOT_FOUND"
    status = grpc.StatusCode.NOT_FOUND


class ConflictError(TroveError):
    """The present state forbids it."""

    reason = "CONFLICT"
    status = grpc.StatusCode.FAILED_PRECONDITION


class AlreadyExistsError(ConflictError):
    """The name or key is taken."""

    reason = "ALREADY_EXISTS"
    status = grpc.StatusCode.ALREADY_EXISTS


class StaleError(TroveError):
    """A lost race: read again and retry."""

    reason = "STALE"
    status = grpc.StatusCode.ABORTED


class SessionMovedError(StaleError):
    """The asked gateway does not hold the guest's session: look it up again."""

    reason = "SESSION_MOVED"


class QuotaExceededError(TroveError):
    """A limit of the tenant."""

    reason = "QUOTA_EXCEEDED"
    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class OverloadedError(TroveError):
    """A bounded queue of ours is full: retry later."""

    reason = "OVERLOADED"
    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class UnsupportedError(TroveError):
    """The engine or driver declares that it cannot."""

    reason = "UNSUPPORTED"
    status = grpc.StatusCode.UNIMPLEMENTED


class UnavailableError(TroveError):
    """The other side is away; an idempotent call may be retried."""

    reason = "UNAVAILABLE"
    status = grpc.StatusCode.UNAVAILABLE


class DeadlineError(TroveError):
    """No answer in time; it may have happened."""

    reason = "DEADLINE_EXCEEDED"
    status = grpc.StatusCode.DEADLINE_EXCEEDED


def _subclasses(cls: type[TroveError]) -> Iterator[type[TroveError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _subclasses(child)


def to_trailer(error: TroveError) -> tuple[str, bytes]:
    """Encode `error` as a google.rpc.Status trailer (AIP-193)."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    # The class lets a newer reason reach an older peer as the right kind of error.
    info.metadata["class"] = type(error).__name__
    if error.subject:
        info.metadata["subject"] = error.subject
    if error.retry_after is not None:
        info.metadata["retry_after"] = f"{error.retry_after:g}"
    status = status_pb2.Status(code=error.status.value[0], message=error.message)
    status.details.add().Pack(info)
    return _STATUS_KEY, status.SerializeToString()


def from_reason(reason: str, message: str, *, subject: str = "") -> TroveError:
    """Build the error whose class has `reason`; an unknown reason becomes a TroveError."""
    for cls in _subclasses(TroveError):
        if cls.reason == reason:
            return cls(message, subject=subject)
    return TroveError(message, reason=reason, subject=subject)


def from_rpc(error: grpc.aio.AioRpcError) -> TroveError:
    """Rebuild the peer's error; without detail, choose the class by status code."""
    message = error.details() or ""
    for key, value in error.trailing_metadata() or ():
        if key != _STATUS_KEY or not isinstance(value, bytes):
            continue
        status = status_pb2.Status.FromString(value)
        info = error_details_pb2.ErrorInfo()
        if not status.details or not status.details[0].Unpack(info) or info.domain != DOMAIN:
            continue
        named = {cls.__name__: cls for cls in _subclasses(TroveError)}
        cls = named.get(info.metadata.get("class", "")) or _by_status(error.code())
        retry_after = info.metadata.get("retry_after")
        return cls(
            message,
            reason=info.reason,
            subject=info.metadata.get("subject", ""),
            retry_after=float(retry_after) if retry_after else None,
        )
    return _by_status(error.code())(message or error.code().name)


def _by_status(code: grpc.StatusCode) -> type[TroveError]:
    if code is TroveError.status:
        return TroveError  # a subclass of this status is told by its name alone
    for cls in _subclasses(TroveError):
        if cls is not TroveError and cls.status is code:
            return cls
    return TroveError
