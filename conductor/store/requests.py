"""Requests that were carried out, so that their repeats find what the first one did (AIP-155).

A request that failed leaves no trace: its transaction is undone, and its id is free again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass

from sqlalchemy.orm import Session

from conductor.models import CreateRequest
from conductor.store.dialects import insert_if_absent
from trove_grpc.errors import ConflictError


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestId:
    """A request as its caller named it; an empty id is never a repeat."""

    tenant_id: str
    id: str
    # What was asked for, so that one id cannot stand for two wishes; at most 64 characters.
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Done:
    """What an earlier request did."""

    resource_id: str
    operation_id: str


def fingerprint(*parts: str | bytes) -> str:
    """SHA-256 of what is asked for."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def claim(
    session: Session,
    request: RequestId,
    *,
    resource_id: str,
    operation_id: str = "",
    now: dt.datetime,
) -> Done | None:
    """Take the id for what this transaction does, or find what an equal request did before.

    One that is under way with the same id is waited for. Raises ConflictError
    (REQUEST_ID_REUSED) where the id was used for something else.
    """
    row = {
        "tenant_id": request.tenant_id,
        "request_id": request.id,
        "fingerprint": request.fingerprint,
        "instance_id": resource_id,
        "operation_id": operation_id,
        "create_time": now,
    }
    if not request.id or insert_if_absent(session, CreateRequest, row):
        return None
    return find(session, request)


def find(session: Session, request: RequestId) -> Done | None:
    """What an equal request did before; raises as `claim` does."""
    earlier = session.get(CreateRequest, (request.tenant_id, request.id)) if request.id else None
    if earlier is None:
        return None
    if earlier.fingerprint != request.fingerprint:
        raise ConflictError(
            f"request id {request.id} was used for something else; choose a new one",
            reason="REQUEST_ID_REUSED",
            subject=request.id,
        )
    return Done(earlier.instance_id, earlier.operation_id)


def retired(request: RequestId, done: Done) -> ConflictError:
    """What a request of this id made is gone: to make it again is another request."""
    return ConflictError(
        f"what was made by request id {request.id} is deleted; choose a new one",
        reason="INSTANCE_RETIRED",
        subject=done.resource_id,
    )
