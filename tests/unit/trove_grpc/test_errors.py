"""The error vocabulary keeps its meaning across the wire."""

from __future__ import annotations

import grpc
import pytest
from grpc import aio

from trove_grpc import errors


def over_the_wire(error: errors.TroveError) -> errors.TroveError:
    key, value = errors.to_trailer(error)
    metadata = aio.Metadata((key, value))
    return errors.from_rpc(
        aio.AioRpcError(error.status, aio.Metadata(), metadata, details=error.message)
    )


@pytest.mark.parametrize(
    "cls",
    [cls for cls in errors._subclasses(errors.TroveError) if cls.__module__ == errors.__name__],
)
def test_every_error_keeps_class_reason_subject_and_retry_after(cls):
    sent = cls("disk full on i-1; grow the volume", subject="i-1", retry_after=2.5)
    received = over_the_wire(sent)
    assert type(received) is cls
    assert (received.message, received.reason) == (sent.message, sent.reason)
    assert (received.subject, received.retry_after) == ("i-1", 2.5)


def test_a_narrower_reason_survives_and_a_newer_one_keeps_its_class():
    received = over_the_wire(errors.NotFoundError("no i-1", reason="NOT_KNOWN_TO_THIS_RELEASE"))
    assert isinstance(received, errors.NotFoundError)
    assert received.reason == "NOT_KNOWN_TO_THIS_RELEASE"


def test_a_status_without_detail_becomes_the_error_of_its_code():
    bare = aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, aio.Metadata(), aio.Metadata(), details="Socket closed"
    )
    received = errors.from_rpc(bare)
    assert isinstance(received, errors.UnavailableError)
    assert received.message == "Socket closed"


def test_a_detail_of_a_foreign_domain_is_not_read():
    from google.rpc import error_details_pb2, status_pb2

    status = status_pb2.Status(code=5, message="gone")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="EVIL", domain="example.org"))
    received = errors.from_rpc(
        aio.AioRpcError(
            grpc.StatusCode.NOT_FOUND,
            aio.Metadata(),
            aio.Metadata(("grpc-status-details-bin", status.SerializeToString())),
            details="gone",
        )
    )
    assert type(received) is errors.NotFoundError
    assert received.reason == "NOT_FOUND"


def test_a_reason_finds_its_class():
    assert isinstance(errors.from_reason("SESSION_MOVED", "x"), errors.SessionMovedError)
    unknown = errors.from_reason("NEVER_HEARD_OF", "x")
    assert type(unknown) is errors.TroveError
    assert unknown.reason == "NEVER_HEARD_OF"
