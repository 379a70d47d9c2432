"""What belongs to the call in progress: request id, caller, deadline, labels for log lines."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Iterator
from contextvars import ContextVar

from trove_grpc.names import ANONYMOUS, Identity

REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_caller: ContextVar[Identity] = ContextVar("caller", default=ANONYMOUS)
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
_labels: ContextVar[dict[str, str]] = ContextVar("labels", default={})  # noqa: B039  never mutated


def new_request_id() -> str:
    """A fresh id in OpenStack's form."""
    return f"req-{uuid.uuid4()}"


def accept_request_id(value: str) -> str:
    """The peer's id if well formed, else a new one: log lines are no place for foreign text."""
    return value if _REQUEST_ID.match(value) else new_request_id()


def request_id() -> str:
    return _request_id.get()


def caller() -> Identity:
    """The verified peer of the RPC in progress; anonymous outside of one."""
    return _caller.get()


def labels() -> dict[str, str]:
    return _labels.get()


@contextlib.contextmanager
def bound(*, request_id: str = "", **labels: str) -> Iterator[None]:
    """Bind the request id and log labels (instance, operation, ...) for a block of work."""
    tokens = [(_labels, _labels.set({**_labels.get(), **labels}))]
    id_token = _request_id.set(request_id) if request_id else None
    try:
        yield
    finally:
        if id_token is not None:
            _reset(_request_id, id_token)
        for variable, token in tokens:
            _reset(variable, token)


@contextlib.contextmanager
def calling(identity: Identity) -> Iterator[None]:
    """Bind the caller for a handler."""
    token = _caller.set(identity)
    try:
        yield
    finally:
        _reset(_caller, token)


@contextlib.contextmanager
def deadline_in(seconds: float | None) -> Iterator[None]:
    """Bind the moment by which the caller wants its answer (None: no limit)."""
    at = None if seconds is None else asyncio.get_running_loop().time() + seconds
    token = _deadline.set(at)
    try:
        yield
    finally:
        _reset(_deadline, token)


def time_left() -> float | None:
    """Seconds until the caller gives up; None without a deadline."""
    at = _deadline.get()
    return None if at is None else at - asyncio.get_running_loop().time()


def _reset(variable: ContextVar, token: object) -> None:  # type: ignore[type-arg]
    # An abandoned async generator is closed in another context, where there is nothing to reset.
    with contextlib.suppress(ValueError):
        variable.reset(token)  # type: ignore[arg-type]
