"""An operation as server-sent events: which one a client has not seen yet.

An event's id is what its receiver has seen: a digit for the operation's state and one for that of
each step. So any API process resumes a stream that another one began, and none keeps anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from gateway.rest import views
from gateway.rest.links import Json, Links
from trove_grpc.gen.conductor.v1 import resources_pb2

_ID = re.compile(r"[0-9]{1,200}", re.ASCII)
_FINAL = frozenset(
    {
        resources_pb2.OPERATION_STATE_SUCCEEDED,
        resources_pb2.OPERATION_STATE_FAILED,
        resources_pb2.OPERATION_STATE_STUCK,
    }
)


def accept_id(text: str) -> str:
    """The Last-Event-ID of a client; "", from the beginning, for none and for what is no id."""
    return text if _ID.fullmatch(text) else ""


def is_final(operation: resources_pb2.Operation) -> bool:
    return operation.state in _FINAL


def unseen(
    operation: resources_pb2.Operation, seen: str, links: Links
) -> Iterator[tuple[str, bytes]]:
    """(id, event) of each that follows `seen`; the end of the operation is the last of all."""
    state = str(int(operation.state))
    last = [("operation", 0)] if state != seen[:1] else []
    steps = [
        ("step", place)
        for place, step in enumerate(operation.steps, 1)
        if str(int(step.state)) != seen[place : place + 1]
    ]
    for name, place in [*steps, *last] if is_final(operation) else [*last, *steps]:
        if place:
            step = operation.steps[place - 1]
            seen = _with(seen, place, str(int(step.state)))
            yield seen, _event(seen, name, views.step(step))
        else:
            seen = _with(seen, 0, state)
            yield seen, _event(seen, name, views.operation(operation, links))


def _with(seen: str, place: int, digit: str) -> str:
    """`seen` with another digit; states not seen yet are 0, which no state is."""
    padded = seen.ljust(place, "0")
    return padded[:place] + digit + padded[place + 1 :]


def _event(event_id: str, name: str, view: dict[str, Json]) -> bytes:
    return f"id: {event_id}\nevent: {name}\ndata: {json.dumps(view)}\n\n".encode()
